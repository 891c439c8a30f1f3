//! Can transactions be put in one order that agrees with what they read and wrote?
//!
//! Nodes are transactions that were acknowledged, or of which something was read. An edge from one to
//! another says that it must come first:
//! - *read*: the other read a value it wrote;
//! - *process*: the same client made both, one after the other;
//! - *write*: it has the lower of two neighbouring offsets in a key.
//!
//! A circle of read and process edges must not be (G1c). Kafka writes records of open transactions as
//! they come, so circles with write edges are allowed (G0 and its kin); they are counted.

use std::collections::{BTreeMap, HashMap};

use super::log::Log;
use crate::history::{History, Key, Kind, Op, ProcessId, Value};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cycles {
    /// One value of each transaction of each circle.
    pub g1c: Vec<Vec<Value>>,
    /// Circles of write edges alone.
    pub g0: usize,
    /// Circles that need write edges and others.
    pub g1c_by_write_order: usize,
}

/// Successors of each node.
type Graph = Vec<Vec<usize>>;

struct Node<'a> {
    process: ProcessId,
    keys: &'a [Key],
    values: &'a [Value],
    reads: &'a BTreeMap<Key, Vec<(i64, Value)>>,
}

fn nodes<'a>(history: &'a History, log: &Log) -> Vec<Node<'a>> {
    let was_read = |key: &Key, value: &Value| {
        let known = log.keys.get(key);
        known.is_some_and(|known| known.read_values.contains(value))
    };
    let mut nodes = Vec::new();
    for event in &history.events {
        let Op::Txn {
            keys,
            values,
            reads,
            ..
        } = &event.op
        else {
            continue;
        };
        let happened = match event.kind {
            Kind::Ok => true,
            Kind::Info => keys.iter().zip(values).any(|(k, v)| was_read(k, v)),
            Kind::Invoke | Kind::Fail => false,
        };
        if happened {
            nodes.push(Node {
                process: event.process,
                keys,
                values,
                reads,
            });
        }
    }
    nodes
}

impl Cycles {
    /// Looks for circles of each kind.
    #[must_use]
    pub fn of(history: &History, log: &Log) -> Self {
        let nodes = nodes(history, log);
        let mut writer: HashMap<(&Key, Value), usize> = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            let places = node.keys.iter().zip(node.values.iter().copied());
            writer.extend(places.map(|place| (place, n)));
        }
        let mut reads: Graph = vec![Vec::new(); nodes.len()];
        let mut last_of: HashMap<ProcessId, usize> = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            if let Some(before) = last_of.insert(node.process, n) {
                reads[before].push(n);
            }
            for (key, records) in node.reads {
                let writers = records.iter().filter_map(|(_, v)| writer.get(&(key, *v)));
                for from in writers.filter(|from| **from != n) {
                    reads[*from].push(n);
                }
            }
        }
        let mut writes: Graph = vec![Vec::new(); nodes.len()];
        for (key, known) in &log.keys {
            let order = known.values_at.values().flatten();
            let order: Vec<usize> = order
                .filter_map(|value| writer.get(&(key, *value)).copied())
                .collect();
            for pair in order.windows(2).filter(|pair| pair[0] != pair[1]) {
                writes[pair[0]].push(pair[1]);
            }
        }
        let name = |circle: &Vec<usize>| {
            circle
                .iter()
                .filter_map(|n| nodes[*n].values.first().copied())
                .collect()
        };
        let g1c = circles(&reads);
        let g0 = circles(&writes).len();
        let both: Graph = reads
            .iter()
            .zip(&writes)
            .map(|(r, w)| r.iter().chain(w).copied().collect())
            .collect();
        let all = circles(&both).len();
        Self {
            g1c_by_write_order: all.saturating_sub(g0 + g1c.len()),
            g1c: g1c.iter().map(name).collect(),
            g0,
        }
    }
}

/// The strongly connected parts with more than one node (Tarjan, without recursion).
fn circles(graph: &Graph) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = graph.len();
    let (mut index, mut low) = (vec![NEW; count], vec![0; count]);
    let (mut on_stack, mut stack) = (vec![false; count], Vec::new());
    let mut next = 0;
    let mut found = Vec::new();
    for root in 0..count {
        if index[root] != NEW {
            continue;
        }
        // A node, and how many of its successors were looked at.
        let mut path = vec![(root, 0)];
        while let Some((node, looked_at)) = path.last_mut() {
            let node = *node;
            if *looked_at == 0 {
                index[node] = next;
                low[node] = next;
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some(to) = graph[node].get(*looked_at).copied() {
                *looked_at += 1;
                if index[to] == NEW {
                    path.push((to, 0));
                } else if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                let from = stack.iter().rposition(|n| *n == node).unwrap_or_default();
                let part = stack.split_off(from);
                for n in &part {
                    on_stack[*n] = false;
                }
                if part.len() > 1 {
                    found.push(part);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Anomaly};

    /// A transaction of `process` that wrote one value to key `k<value>`, and read others.
    fn txn(h: &mut History, process: ProcessId, value: Value, read: &[Value]) {
        let of = |value: &Value| (format!("k{value}"), vec![(0, *value)]);
        let op = Op::Txn {
            keys: vec![format!("k{value}")],
            values: vec![value],
            offsets: vec![Some(0)],
            reads: read.iter().map(of).collect(),
        };
        h.push(process, Kind::Ok, op);
    }

    fn cycles(build: impl FnOnce(&mut History)) -> Cycles {
        let mut history = History::default();
        build(&mut history);
        Cycles::of(&history, &Log::of(&history))
    }

    #[test]
    fn reading_what_came_before_is_no_circle() {
        let found = cycles(|h| {
            txn(h, 0, 1, &[]);
            txn(h, 1, 2, &[1]);
            txn(h, 0, 3, &[1, 2]);
            txn(h, 2, 4, &[1, 3]);
        });
        assert_eq!(found, Cycles::default());
    }

    #[test]
    fn two_that_read_each_other_are_g1c() {
        let mut found = cycles(|h| {
            txn(h, 0, 1, &[2]);
            txn(h, 1, 2, &[1]);
        });
        found.g1c[0].sort_unstable();
        assert_eq!(found.g1c, [[1, 2]]);
    }

    #[test]
    fn reading_from_a_later_one_of_the_same_process_is_g1c() {
        let mut history = History::default();
        txn(&mut history, 0, 1, &[3]);
        txn(&mut history, 1, 2, &[]);
        txn(&mut history, 0, 4, &[]);
        // 3 has read 4, which follows 1 in its process, which has read 3.
        txn(&mut history, 2, 3, &[4]);
        let found = check::all(&history).anomalies;
        let circle = |a: &Anomaly| matches!(a, Anomaly::G1c { values } if values.len() == 3);
        assert!(found.iter().any(circle), "{found:?}");
    }

    #[test]
    fn interleaved_writes_are_counted_not_judged() {
        let write = |h: &mut History, value: Value, at: [i64; 2]| {
            let op = Op::Txn {
                keys: vec!["a".into(), "b".into()],
                values: vec![value, value],
                offsets: at.map(Some).to_vec(),
                reads: BTreeMap::new(),
            };
            h.push(value as ProcessId, Kind::Ok, op);
        };
        let found = cycles(|h| {
            write(h, 1, [0, 1]);
            write(h, 2, [1, 0]);
        });
        let g0 = Cycles {
            g0: 1,
            ..Cycles::default()
        };
        assert_eq!(found, g0);
        let found = cycles(|h| {
            write(h, 1, [0, 0]);
            write(h, 2, [1, 1]);
        });
        assert_eq!(found, Cycles::default());
    }

    #[test]
    fn circles_agree_with_reachability() {
        use proptest::prelude::*;
        proptest!(|(edges in prop::collection::vec((0_usize..9, 0_usize..9), 0..25))| {
            let mut graph: Graph = vec![Vec::new(); 9];
            let mut reach = [[false; 9]; 9];
            for (from, to) in edges {
                graph[from].push(to);
                reach[from][to] = true;
            }
            for over in 0..9 {
                for from in 0..9 {
                    for to in 0..9 {
                        reach[from][to] |= reach[from][over] && reach[over][to];
                    }
                }
            }
            let found = circles(&graph);
            for (one, reached) in reach.iter().enumerate() {
                for other in (0..9).filter(|other| *other != one) {
                    let together = found.iter().any(|c| c.contains(&one) && c.contains(&other));
                    prop_assert_eq!(together, reached[other] && reach[other][one]);
                }
            }
        });
    }
}

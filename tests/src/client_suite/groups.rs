//! Consumer groups.

use super::ground::{Seen, create, fresh, member, read_until, topic, write};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidelog_client::{
    Assignor, Committer, Consumer, GroupConfig, RebalanceHook, StartPosition, TopicPartition,
};

fn assigned(consumer: &Consumer) -> BTreeSet<TopicPartition> {
    consumer.assignment().into_iter().collect()
}

/// Two members read all of a topic between them, each record once; who comes later in the same
/// group finds nothing left.
pub async fn a_group_reads_each_record_once(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "group", 4).await?;
    write(bootstrap, &topic, 4, 0..400).await?;
    let group = || GroupConfig::new(&topic);
    let mut a = member(bootstrap, group()).await?;
    let mut b = member(bootstrap, group()).await?;
    a.subscribe([topic.as_str()]).await?;
    b.subscribe([topic.as_str()]).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut a, &mut b], &mut seen, |seen, m| {
        seen.len() == 400 && m.iter().all(|m| m.assignment().len() == 2)
    })
    .await?;
    ensure!(a.lag().values().all(|&lag| lag == 0), "{:?}", a.lag());
    a.close().await?;
    b.close().await?;
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );

    write(bootstrap, &topic, 4, 400..410).await?;
    let mut c = member(bootstrap, group()).await?;
    c.subscribe([topic.as_str()]).await?;
    let mut later = Seen::new();
    read_until(&mut [&mut c], &mut later, |seen, _| seen.len() >= 10).await?;
    ensure!(
        later.keys().eq((400..410).collect::<Vec<_>>().iter()),
        "{later:?}"
    );
    c.close().await?;
    Ok(())
}

/// A second member takes over half of the partitions while the first reads on, and gives them back
/// when it leaves.
pub async fn a_member_that_comes_takes_over_partitions(bootstrap: &str) -> Result<()> {
    come_and_go(bootstrap, |id| GroupConfig::new(id)).await
}

async fn come_and_go(bootstrap: &str, group: impl Fn(&str) -> GroupConfig) -> Result<()> {
    let topic = topic(bootstrap, "come", 6).await?;
    write(bootstrap, &topic, 6, 0..60).await?;
    let mut a = member(bootstrap, group(&topic)).await?;
    a.subscribe([topic.as_str()]).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut a], &mut seen, |seen, _| seen.len() == 60).await?;
    ensure!(a.assignment().len() == 6);
    let mut b = member(bootstrap, group(&topic)).await?;
    b.subscribe([topic.as_str()]).await?;
    read_until(&mut [&mut a, &mut b], &mut seen, |_, m| {
        m.iter().all(|m| m.assignment().len() == 3)
    })
    .await?;
    ensure!(assigned(&a).is_disjoint(&assigned(&b)));
    write(bootstrap, &topic, 6, 60..120).await?;
    read_until(&mut [&mut a, &mut b], &mut seen, |seen, _| {
        seen.len() == 120
    })
    .await?;
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );
    b.close().await?;
    read_until(&mut [&mut a], &mut seen, |_, m| {
        m[0].assignment().len() == 6
    })
    .await?;
    a.close().await?;
    Ok(())
}

/// Two members with each assignor.
pub async fn every_assignor_is_understood(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "assignors", 4).await?;
    write(bootstrap, &topic, 4, 0..40).await?;
    for assignor in Assignor::ALL {
        let group = fresh(assignor.name());
        let config = || GroupConfig::new(&group).with_assignors([assignor]);
        let mut a = member(bootstrap, config()).await?;
        let mut b = member(bootstrap, config()).await?;
        a.subscribe([topic.as_str()]).await?;
        b.subscribe([topic.as_str()]).await?;
        let mut seen = Seen::new();
        read_until(&mut [&mut a, &mut b], &mut seen, |seen, m| {
            seen.len() == 40 && m.iter().all(|m| m.assignment().len() == 2)
        })
        .await?;
        a.close().await?;
        b.close().await?;
    }
    Ok(())
}

/// By hand: exactly what was handed out. Automatically: not what was handed out last and may still
/// be worked on when the consumer is dropped.
pub async fn offsets_are_committed_up_to_what_was_dealt_with(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "commits", 1).await?;
    write(bootstrap, &topic, 1, 0..20).await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    let committed = async |consumer: &mut Consumer| -> Result<Option<i64>> {
        let committed = consumer.committed(std::slice::from_ref(&place)).await?;
        Ok(committed.get(&place).map(|c| c.offset))
    };

    let by_hand = GroupConfig::new(&topic).with_auto_commit(None);
    let mut consumer = member(bootstrap, by_hand.clone()).await?;
    consumer.subscribe([topic.as_str()]).await?;
    for _ in 0..7 {
        consumer.next_record().await?;
    }
    ensure!(
        committed(&mut consumer).await?.is_none(),
        "committed unasked"
    );
    consumer.commit().await?;
    ensure!(committed(&mut consumer).await? == Some(7));
    consumer.next_record().await?;
    consumer.close().await?;

    let mut again = member(bootstrap, by_hand).await?;
    again.subscribe([topic.as_str()]).await?;
    ensure!(again.next_record().await?.offset == 7);
    again.close().await?;

    let every = Some(Duration::from_millis(20));
    let automatic = GroupConfig::new(fresh("automatic")).with_auto_commit(every);
    let mut consumer = member(bootstrap, automatic.clone()).await?;
    consumer.subscribe([topic.as_str()]).await?;
    let committer = consumer.committer()?;
    let place_of = std::slice::from_ref(&place);
    let mut offset = 0;
    for in_hand in 0..5 {
        consumer.next_record().await?;
        let began = Instant::now();
        // While one commit is on its way no other begins, and none begins but when a record is asked for.
        while offset < in_hand - 1 && began.elapsed() < Duration::from_secs(10) {
            let found = committer.committed(place_of).await?;
            offset = found.get(&place).map_or(0, |found| found.offset);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    ensure!(
        (3..=4).contains(&offset),
        "committed {offset} with record 4 in hand"
    );
    drop(consumer);
    Ok(())
}

/// It keeps its partitions, and its offsets, without the others noticing.
pub async fn a_static_member_comes_back_without_a_rebalance(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "static", 4).await?;
    write(bootstrap, &topic, 4, 0..40).await?;
    let config = |instance: &str| {
        let group = GroupConfig::new(&topic).with_session_timeout(Duration::from_secs(20));
        group.with_instance_id(instance)
    };
    let mut a = member(bootstrap, config("a")).await?;
    let mut b = member(bootstrap, config("b")).await?;
    a.subscribe([topic.as_str()]).await?;
    b.subscribe([topic.as_str()]).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut a, &mut b], &mut seen, |seen, m| {
        seen.len() == 40 && m.iter().all(|m| m.assignment().len() == 2)
    })
    .await?;
    let before = (assigned(&a), assigned(&b));
    let heard = Heard::default();
    b.set_rebalance_hook(heard.clone());
    a.close().await?;
    let mut a = member(bootstrap, config("a")).await?;
    a.subscribe([topic.as_str()]).await?;
    read_until(&mut [&mut a, &mut b], &mut seen, |_, m| {
        m.iter().all(|m| m.assignment().len() == 2)
    })
    .await?;
    write(bootstrap, &topic, 4, 40..80).await?;
    read_until(&mut [&mut a, &mut b], &mut seen, |seen, _| seen.len() == 80).await?;
    ensure!((assigned(&a), assigned(&b)) == before, "partitions moved");
    ensure!(heard.all().is_empty(), "a rebalance: {:?}", heard.all());
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );
    Ok(())
}

/// After the poll interval another member gets them, and the first joins anew when it asks again.
pub async fn a_member_that_asks_no_more_loses_its_partitions(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "idle", 2).await?;
    write(bootstrap, &topic, 2, 0..20).await?;
    let config = || {
        let mut group = GroupConfig::new(&topic).with_max_poll_interval(Duration::from_secs(2));
        group.heartbeat_interval = Duration::from_millis(300);
        group
    };
    let mut idle = member(bootstrap, config()).await?;
    let heard = Heard::default();
    idle.set_rebalance_hook(heard.clone());
    idle.subscribe([topic.as_str()]).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut idle], &mut seen, |seen, _| seen.len() == 20).await?;
    idle.commit().await?;
    let mut busy = member(bootstrap, config()).await?;
    busy.subscribe([topic.as_str()]).await?;
    read_until(&mut [&mut busy], &mut seen, |_, m| {
        m[0].assignment().len() == 2
    })
    .await?;
    // Told only now, because it did not ask.
    ensure!(heard.all().len() == 1, "{:?}", heard.all());
    read_until(&mut [&mut busy, &mut idle], &mut seen, |_, m| {
        m.iter().all(|m| m.assignment().len() == 1)
    })
    .await?;
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );
    let lost = heard.all().iter().any(|what| what.starts_with("lost"));
    ensure!(lost, "{:?}", heard.all());
    Ok(())
}

/// What a hook heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().map(|heard| heard.clone()).unwrap_or_default()
    }

    fn note(&self, what: &str, places: &[TopicPartition]) {
        let places: Vec<_> = places.iter().map(|p| p.partition.to_string()).collect();
        if let Ok(mut heard) = self.0.lock() {
            heard.push(format!("{what} {}", places.join(",")));
        }
    }
}

impl RebalanceHook for Heard {
    fn assigned(&mut self, partitions: &[TopicPartition]) {
        self.note("assigned", partitions);
    }

    fn revoked<'a>(
        &'a mut self,
        partitions: &'a [TopicPartition],
        committer: &'a Committer,
    ) -> futures_util::future::BoxFuture<'a, ()> {
        Box::pin(async move {
            let offsets = partitions.iter().map(|p| (p.clone(), 1)).collect();
            let done = committer.commit(&offsets).await;
            self.note(if done.is_ok() { "revoked" } else { "fenced" }, partitions);
        })
    }

    fn lost(&mut self, partitions: &[TopicPartition]) {
        self.note("lost", partitions);
    }
}

/// With cooperative members only what moves is revoked, with eager ones everything; in both cases
/// the last offsets can still be committed.
pub async fn hooks_hear_of_partitions(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "hooks", 2).await?;
    for (assignor, expected) in [
        (
            Assignor::CooperativeSticky,
            vec!["assigned 0,1", "revoked 1"],
        ),
        (
            Assignor::Range,
            vec!["assigned 0,1", "revoked 0,1", "assigned"],
        ),
    ] {
        let group = fresh(assignor.name());
        let config = || {
            let group = GroupConfig::new(&group).with_assignors([assignor]);
            group.with_auto_commit(None)
        };
        let heard = Heard::default();
        let mut a = member(bootstrap, config()).await?;
        a.set_rebalance_hook(heard.clone());
        a.subscribe([topic.as_str()]).await?;
        let mut seen = Seen::new();
        read_until(&mut [&mut a], &mut seen, |_, m| {
            m[0].assignment().len() == 2
        })
        .await?;
        let mut b = member(bootstrap, config()).await?;
        b.subscribe([topic.as_str()]).await?;
        read_until(&mut [&mut a, &mut b], &mut seen, |_, m| {
            m.iter().all(|m| m.assignment().len() == 1)
        })
        .await?;
        let heard = heard.all();
        let matching = heard
            .iter()
            .zip(&expected)
            .filter(|(h, e)| h.starts_with(*e));
        ensure!(
            heard.len() == expected.len() && matching.count() == expected.len(),
            "{assignor}: {heard:?}"
        );
        let all = [0, 1].map(|p| TopicPartition::new(topic.as_str(), p));
        let moved = a.committed(&all).await?;
        ensure!(
            !moved.is_empty(),
            "what was committed in the hook is not there"
        );
    }
    Ok(())
}

/// The others go on, and it goes on where it stopped.
pub async fn a_paused_partition_waits(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "pause", 2).await?;
    write(bootstrap, &topic, 2, 0..100).await?;
    let mut consumer = member(bootstrap, GroupConfig::new(&topic)).await?;
    consumer.subscribe([topic.as_str()]).await?;
    let first = consumer.next_record().await?;
    let paused = TopicPartition::new(topic.as_str(), first.partition);
    consumer.pause([&paused]);
    let mut seen = Seen::new();
    read_until(&mut [&mut consumer], &mut seen, |seen, _| seen.len() >= 50).await?;
    let parity = first.partition as u32;
    ensure!(
        seen.keys().all(|n| n % 2 != parity),
        "read while paused: {seen:?}"
    );
    ensure!(consumer.position(&paused) == Some(1));
    consumer.resume([&paused]);
    read_until(&mut [&mut consumer], &mut seen, |seen, _| seen.len() == 99).await?;
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );
    consumer.close().await?;
    Ok(())
}

/// To an offset, to a time, to the ends.
pub async fn seeking_by_offset_and_time(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "seek", 1).await?;
    write(bootstrap, &topic, 1, 0..20).await?;
    let mut consumer = member(bootstrap, GroupConfig::new(&topic)).await?;
    consumer
        .assign([(topic.as_str(), 0, StartPosition::Earliest)])
        .await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    let tenth = async |consumer: &mut Consumer| -> Result<i64> {
        loop {
            let record = consumer.next_record().await?;
            if record.offset >= 10 {
                return Ok(record.timestamp_ms);
            }
        }
    };
    let time = tenth(&mut consumer).await?;
    consumer.seek(&place, StartPosition::Offset(3))?;
    ensure!(consumer.next_record().await?.offset == 3);
    consumer.seek(&place, StartPosition::Earliest)?;
    ensure!(consumer.next_record().await?.offset == 0);
    consumer.seek(&place, StartPosition::Timestamp(time))?;
    let found = consumer.next_record().await?;
    ensure!(
        found.timestamp_ms >= time && found.offset <= 10,
        "{found:?}"
    );
    consumer.seek(&place, StartPosition::Latest)?;
    let waiting = tokio::time::timeout(Duration::from_millis(500), consumer.next_record());
    ensure!(waiting.await.is_err(), "a record after the end");
    write(bootstrap, &topic, 1, 20..21).await?;
    ensure!(consumer.next_record().await?.offset == 20);
    let other = TopicPartition::new(topic.as_str(), 1);
    ensure!(consumer.seek(&other, StartPosition::Earliest).is_err());
    Ok(())
}

/// A topic that did not exist at the time of the subscription.
pub async fn a_new_topic_is_found(bootstrap: &str) -> Result<()> {
    let topic = fresh("later");
    let mut consumer = member(bootstrap, GroupConfig::new(&topic)).await?;
    consumer.subscribe([topic.as_str()]).await?;
    let waiting = tokio::time::timeout(Duration::from_millis(500), consumer.next());
    ensure!(
        waiting.await.is_err(),
        "records of a topic that does not exist"
    );
    create(bootstrap, &topic, 2).await?;
    write(bootstrap, &topic, 2, 0..10).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut consumer], &mut seen, |seen, _| seen.len() == 10).await?;
    consumer.close().await?;
    Ok(())
}

/// KIP-848: as [`a_group_reads_each_record_once`].
pub async fn committed_offsets_are_deleted(bootstrap: &str) -> Result<()> {
    let name = topic(bootstrap, "forgotten", 2).await?;
    let admin = tidelog_client::Admin::new(super::ground::client(bootstrap)).await?;
    let places = [0, 1].map(|p| TopicPartition::new(name.as_str(), p));
    let offsets = places.iter().map(|place| (place.clone(), 0)).collect();
    admin.alter_group_offsets(&name, &offsets).await?;
    admin.delete_group_offsets(&name, &places[..1]).await?;
    let left = admin.group_offsets(&name).await?;
    ensure!(left.keys().eq(&places[1..]), "{left:?}");
    Ok(())
}

pub async fn the_broker_assigns(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "next", 4).await?;
    write(bootstrap, &topic, 4, 0..400).await?;
    let config = || GroupConfig::new(&topic).assigned_by_broker();
    let mut a = member(bootstrap, config()).await?;
    let mut b = member(bootstrap, config()).await?;
    a.subscribe([topic.as_str()]).await?;
    b.subscribe([topic.as_str()]).await?;
    let mut seen = Seen::new();
    read_until(&mut [&mut a, &mut b], &mut seen, |seen, m| {
        seen.len() == 400 && m.iter().all(|m| m.assignment().len() == 2)
    })
    .await?;
    ensure!(
        seen.values().all(|&times| times == 1),
        "read twice: {seen:?}"
    );
    a.close().await?;
    b.close().await?;
    write(bootstrap, &topic, 4, 400..410).await?;
    let mut c = member(bootstrap, config()).await?;
    c.subscribe([topic.as_str()]).await?;
    let mut later = Seen::new();
    read_until(&mut [&mut c], &mut later, |seen, _| seen.len() >= 10).await?;
    ensure!(
        later.keys().eq((400..410).collect::<Vec<_>>().iter()),
        "{later:?}"
    );
    c.close().await?;
    Ok(())
}

/// KIP-848: as [`a_member_that_comes_takes_over_partitions`].
pub async fn the_broker_moves_partitions_to_who_comes(bootstrap: &str) -> Result<()> {
    come_and_go(bootstrap, |id| GroupConfig::new(id).assigned_by_broker()).await
}

//! Making the target assignment.

use super::assignor::{Assignor, GroupSpec, MemberSpec};
use super::group::ConsumerGroup;
use super::heartbeat::Context;
use super::records::Change;
use crate::metadata::MetadataImage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

impl ConsumerGroup {
    /// The assignor most members ask for, or the default.
    pub fn assignor(&self, assignors: &[Assignor]) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for member in self.members.values() {
            let name = member.metadata.assignor.as_deref();
            if let Some(assignor) = name.and_then(Assignor::named)
                && assignors.contains(&assignor)
            {
                *votes.entry(assignor).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.map(|(assignor, _)| assignor)
            .or(assignors.first().copied())
            .unwrap_or(Assignor::Uniform)
    }

    /// Brings the target assignment to the group's epoch; only what has changed is written.
    pub(super) fn make_target(&mut self, cx: Context<'_>, changes: &mut Vec<Change>) {
        let assignor = self.assignor(&cx.settings.assignors);
        let target = assignor.assign(&self.spec(&cx.turn.image));
        for (id, partitions) in target {
            if self.target.get(&id) != Some(&partitions) {
                self.change(changes, Change::TargetMember(id, Some(partitions)));
            }
        }
        self.change(changes, Change::Target(Some(self.epoch)));
    }

    fn spec(&self, image: &MetadataImage) -> GroupSpec<'_> {
        let mut topics = BTreeMap::new();
        let mut last: Option<(BTreeSet<&String>, Arc<BTreeSet<Uuid>>)> = None;
        let mut members = BTreeMap::new();
        for (id, member) in &self.members {
            let names: BTreeSet<&String> = self.topics_of(member).collect();
            // Most groups' members are all subscribed alike: they share one set.
            let ids = match &last {
                Some((before, ids)) if *before == names => ids.clone(),
                _ => {
                    let found: Vec<_> = names.iter().filter_map(|n| image.topic(n)).collect();
                    topics.extend(found.iter().map(|t| (t.id, t.partitions.len() as u32)));
                    Arc::new(found.iter().map(|t| t.id).collect::<BTreeSet<Uuid>>())
                }
            };
            last = Some((names, ids.clone()));
            members.insert(
                id.as_str(),
                MemberSpec {
                    instance_id: member.metadata.instance_id.as_deref(),
                    topics: ids,
                    previous: self.target.get(id),
                },
            );
        }
        GroupSpec { members, topics }
    }
}

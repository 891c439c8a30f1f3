//! Rebuilds this broker's replicas from their peers after its journal was damaged.
//!
//! A replica that has lost its votes and entries must not do what it might have promised not to do:
//! vote for a candidate that lacks an entry it once acknowledged, or acknowledge a leader after
//! having voted in a later term. So, per group:
//!
//! 1. Every other replica is asked for its term and the end of its log. Whoever this replica voted for has
//!    that term on disk; from now on leaders of earlier terms are refused. All must answer: the candidate may
//!    be any of them.
//! 2. It follows the leader as an empty replica does, and gets everything from it. Where there is none, as a
//!    majority needs this replica's vote, it votes for a candidate of a later term whose log ends where the
//!    longest of the others did, or after it: what this replica helped to commit at least one other voter has as
//!    well, and so has the longest log. What is committed meanwhile is committed without this replica, so that
//!    a candidate without it finds no majority. By the same rule it stands itself: where a crash has interrupted
//!    a rebuild, what it has got since the damage may end behind what all others have, and it can vote for none of them.
//! 3. A leader proves, after the loss and by a majority, that it still leads, and names the end of
//!    its log. That log holds every entry this replica can have helped to commit (Raft's leader
//!    completeness). Once it is applied here, the replica votes for whom its own log allows again.
//!
//! A file marks the rebuild until all groups are through it, so that a crash begins it anew.
//!
//! A replica that came later may have had a past here as well, before it was moved away. It votes for nobody before its own log
//! says that it is a voter, unless there is no leader: the others may have made it one and be unable to tell it, as
//! they need its vote to elect a leader. Then it asks all others (1.) and votes by the same rule (2.).

use crate::detector;
use crate::error::ReplicationError;
use crate::group::{Group, GroupReplicas};
use crate::ids::BrokerId;
use crate::node::NodeShared;
use crate::types::{LogId, log_id_from_proto};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidelog_proto::peer::{self as wire, message::Body};
use tokio::sync::watch;
use tokio::time::Instant;

const MARKER: &str = "journal.rebuild";
const ASK_LIMIT: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a leader that has proven itself may take to send something.
const ASK_LEADER_AGAIN: Duration = Duration::from_secs(1);
/// How often a rebuild that does not get on says why.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// What a replica may take part in.
pub struct Guard {
    phase: Mutex<Phase>,
    /// Its broker is about to remove it.
    leaving: AtomicBool,
    /// The others are being asked what they have.
    asking: AtomicBool,
    /// Until then no vote: an earlier process of this broker may have answered a leader, who counts on
    /// there being no other one so long.
    promised_until: Option<Instant>,
}

enum Phase {
    /// It came after the group was formed, and follows. It casts no vote until its own log makes it a voter:
    /// this broker may have had a replica before, whose votes are forgotten, and with an empty log it
    /// would vote for candidates that lack what is committed. Once it knows what all others had, candidates of
    /// later terms that have at least that get its vote.
    Joining(Option<Others>),
    /// Not even the terms of the others are known.
    Lost,
    /// Leaders of this term or later are followed; candidates of later terms get its vote when they have at
    /// least what all others had.
    CatchingUp(Others),
    Whole,
}

/// What the other replicas had when all of them had answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// The greatest that any of them has voted in or heard of.
    term: u64,
    /// The end of the longest log of a voter; none when one of them did not tell.
    longest: Option<Option<LogId>>,
}

impl Others {
    /// What they answered; nothing when none of them has ever had a vote.
    fn of(answers: &[wire::RebuildStateReply]) -> Option<Others> {
        let voters = || answers.iter().filter(|answer| !answer.joining);
        voters().next()?;
        let end = |answer: &wire::RebuildStateReply| {
            let end = answer.log_end.as_ref()?;
            Some(end.last.as_ref().map(log_id_from_proto))
        };
        let ends: Option<Vec<Option<LogId>>> = voters().map(end).collect();
        Some(Others {
            term: answers.iter().map(|answer| answer.term).max()?,
            longest: ends.and_then(|ends| ends.into_iter().max()),
        })
    }

    /// Whether a candidate lacks nothing that this replica may have helped to commit.
    fn allow(&self, vote: &wire::VoteRequest) -> bool {
        let term = vote.vote.as_ref().map_or(0, |vote| vote.term);
        let last = vote.last.as_ref().map(log_id_from_proto);
        term > self.term && self.have_no_more_than(last)
    }

    /// Whether this replica, which would be a candidate of the term after `term`, lacks nothing of that.
    fn let_stand(&self, term: u64, last: Option<LogId>) -> bool {
        term >= self.term && self.have_no_more_than(last)
    }

    fn have_no_more_than(&self, last: Option<LogId>) -> bool {
        self.longest.is_some_and(|longest| last >= longest)
    }
}

impl Guard {
    /// Of a replica that is as it was left.
    pub fn whole() -> Guard {
        Guard::new(Phase::Whole)
    }

    fn new(phase: Phase) -> Guard {
        Guard {
            phase: Mutex::new(phase),
            leaving: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            promised_until: None,
        }
    }

    /// Of a replica that may have followed a leader before this process began.
    pub fn promised_until(self, until: Instant) -> Guard {
        Guard {
            promised_until: Some(until),
            ..self
        }
    }

    /// Whether a leader may still count on an answer of an earlier process.
    pub fn keeps_promise(&self) -> bool {
        self.promised_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Of a replica that was added to its group.
    pub fn joining() -> Guard {
        Guard::new(Phase::Joining(None))
    }

    /// Of a replica that has lost its past.
    pub fn lost() -> Guard {
        Guard::new(Phase::Lost)
    }

    pub fn may_vote(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Whole) && !self.is_leaving() && !self.keeps_promise()
    }

    /// Whether a replica that has lost its past may stand for election, with this term and this log.
    pub fn may_stand_again(&self, term: u64, last: Option<LogId>) -> bool {
        match &*self.phase.lock() {
            Phase::CatchingUp(others) => {
                others.let_stand(term, last) && !self.is_leaving() && !self.keeps_promise()
            }
            Phase::Joining(_) | Phase::Lost | Phase::Whole => false,
        }
    }

    /// Whether the replica has lost its past and does not have it back.
    pub fn is_lost(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Lost | Phase::CatchingUp(_))
    }

    pub fn is_joining(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Joining(_))
    }

    /// Whether it could do something for a group without a leader if it knew what the others have.
    pub fn should_ask(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Joining(None)) && !self.is_leaving()
    }

    /// What is there was formed without this replica.
    pub fn join(&self) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Whole) {
            *phase = Phase::Joining(None);
        }
    }

    /// From now on, until [`Guard::stay`], the replica answers nobody.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn stay(&self) {
        self.leaving.store(false, Ordering::Release);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Whether a Raft request may reach the group.
    pub fn admits(&self, request: &Body) -> bool {
        if self.is_leaving() {
            return false;
        }
        // A leader that hands over counts on nothing any more.
        if matches!(request, Body::Vote(vote) if !vote.leadership_transfer) && self.keeps_promise()
        {
            return false;
        }
        let phase = self.phase.lock();
        let vote = match (request, &*phase) {
            (Body::Append(append), _) => &append.vote,
            (Body::Snapshot(snapshot), _) => &snapshot.vote,
            (Body::Vote(vote), Phase::CatchingUp(others) | Phase::Joining(Some(others))) => {
                return others.allow(vote);
            }
            (_, phase) => return matches!(phase, Phase::Whole),
        };
        match &*phase {
            Phase::Lost => false,
            Phase::CatchingUp(others) => vote.as_ref().is_some_and(|v| v.term >= others.term),
            Phase::Joining(_) | Phase::Whole => true,
        }
    }

    fn catch_up(&self, others: Others) {
        *self.phase.lock() = Phase::CatchingUp(others);
    }

    fn may_be_needed(&self, others: Others) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Joining(_)) {
            *phase = Phase::Joining(Some(others));
        }
    }

    pub fn end(&self) {
        *self.phase.lock() = Phase::Whole;
    }
}

/// Whether this broker is being rebuilt.
pub struct Rebuild {
    marker: PathBuf,
    active: AtomicBool,
    /// Every replica the metadata gives this broker has been opened.
    all_open: AtomicBool,
}

impl Rebuild {
    pub fn of(data_dir: &Path) -> Rebuild {
        let marker = data_dir.join(MARKER);
        Rebuild {
            active: AtomicBool::new(marker.exists()),
            marker,
            all_open: AtomicBool::new(false),
        }
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    pub fn set_all_open(&self) {
        self.all_open.store(true, Ordering::Release);
    }

    /// Guard for a group that is about to start.
    pub fn guard(&self, members: &GroupReplicas) -> Guard {
        if self.is_active() && members.replicas.len() > 1 {
            Guard::lost()
        } else if members.founders.is_empty() {
            Guard::joining()
        } else {
            Guard::whole()
        }
    }

    fn end(&self) -> io::Result<()> {
        std::fs::remove_file(&self.marker)?;
        if let Some(dir) = self.marker.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.active.store(false, Ordering::Release);
        Ok(())
    }
}

/// Marks the rebuild and sets the damaged journal aside.
///
/// # Errors
/// When the data folder cannot be written.
pub fn begin(data_dir: &Path, damage: &str) -> Result<(), ReplicationError> {
    let aside = data_dir.join(format!("journal.damaged-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut marker = File::create(data_dir.join(MARKER))?;
        writeln!(
            marker,
            "This broker's journal was damaged; its replicas are being rebuilt from their peers.\n\
             The damaged journal is in {}. Removing this file can lose acknowledged records.\n{damage}",
            aside.display()
        )?;
        marker.sync_all()?;
        File::open(data_dir)?.sync_all()?;
        std::fs::rename(data_dir.join("journal"), &aside)?;
        File::open(data_dir)?.sync_all()
    };
    write().map_err(|e| {
        ReplicationError::Refused(format!("cannot set the damaged journal aside: {e}"))
    })?;
    tracing::error!(
        "the journal is damaged ({damage}): it is now {}, and every replica of this broker is \
         rebuilt from its peers; all of them have to be up for that",
        aside.display()
    );
    Ok(())
}

/// Takes a group through its rebuild.
pub async fn run(shared: Arc<NodeShared>, group: Arc<Group>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = rebuild(&shared, &group) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

async fn rebuild(shared: &NodeShared, group: &Group) {
    let mut reported = Instant::now();
    let me = shared.transport.identity.broker;
    let goes_on = || !group.is_stopping();
    let asked = ask_all(shared, group, goes_on, |reason| {
        report(&mut reported, group, reason);
    });
    let Some((answers, known)) = asked.await else {
        return;
    };
    if known.term == 0 && answers.iter().all(|answer| answer.empty) {
        // No other replica has ever heard of a term: nothing was committed, and nobody was promised anything. What
        // is here at most is the first entry, of a group that was being formed.
        group.guard.end();
        if group.first_founder() == Some(me)
            && let Err(error) = group.initialize().await
        {
            tracing::error!(group = group.id.0, "forming the group: {error}");
        }
        shared.unsettle();
        return;
    }
    group.guard.catch_up(known);
    let barrier = loop {
        if group.is_stopping() {
            return;
        }
        if group.is_ready_leader() {
            // A majority has let this replica lead, and what it leads with is committed.
            return ended(shared, group);
        }
        match ask_leader(shared, group, &others(shared, group)).await {
            Ok(index) => break index,
            Err(reason) => report(&mut reported, group, &reason),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    let mut asked = Instant::now();
    while group.machine.applied_index() < barrier {
        if group.is_stopping() {
            return;
        }
        report(&mut reported, group, "copying what the leader has");
        tokio::time::sleep(ASK_AGAIN).await;
        if asked.elapsed() >= ASK_LEADER_AGAIN {
            // The heartbeat that tells the leader what is missing here may have been lost: it goes
            // out again with the next proof.
            let _ = ask_leader(shared, group, &others(shared, group)).await;
            asked = Instant::now();
        }
    }
    ended(shared, group);
}

fn ended(shared: &NodeShared, group: &Group) {
    group.guard.end();
    tracing::info!(group = group.id.0, "rebuilt from the other replicas");
    shared.unsettle();
}

/// The other replicas. They change when the partition moves.
fn others(shared: &NodeShared, group: &Group) -> Vec<BrokerId> {
    let me = shared.transport.identity.broker;
    let replicas = group.replicas();
    replicas.iter().copied().filter(|r| *r != me).collect()
}

/// Has a replica that came later, and does not know that it is a voter, take part in an election all the same.
pub async fn ask_for_vote(shared: Arc<NodeShared>, group: Arc<Group>) {
    if group.guard.asking.swap(true, Ordering::AcqRel) {
        return;
    }
    let mut reported = Instant::now();
    let goes_on =
        || !group.is_stopping() && !group.may_vote() && !detector::leader_lives(&shared, &group);
    let asked = ask_all(&shared, &group, goes_on, |reason| {
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            let id = group.id.0;
            tracing::warn!(
                group = id,
                "no leader, and no vote from here before all other replicas have answered: {reason}"
            );
        }
    });
    if let Some((_, known)) = asked.await {
        group.guard.may_be_needed(known);
    }
    group.guard.asking.store(false, Ordering::Release);
}

/// What every other replica answered, and what follows from it; nothing when it does not matter any more.
async fn ask_all(
    shared: &NodeShared,
    group: &Group,
    goes_on: impl Fn() -> bool,
    mut report: impl FnMut(&str),
) -> Option<(Vec<wire::RebuildStateReply>, Others)> {
    let mut told: BTreeMap<BrokerId, wire::RebuildStateReply> = BTreeMap::new();
    while goes_on() {
        let mut missing = others(shared, group);
        missing.retain(|other| !told.contains_key(other));
        if missing.is_empty() {
            let answers: Vec<_> = told.values().cloned().collect();
            if let Some(known) = Others::of(&answers) {
                return Some((answers, known));
            }
            // Nobody to ask is no answer, nor are those who never had a vote.
            report("no other replica has ever had a vote");
            told.clear();
        }
        for other in missing {
            let question = Body::RebuildState(wire::RebuildState {});
            match ask(shared, group, other, question).await {
                Ok(Body::RebuildStateReply(reply)) => {
                    told.insert(other, reply);
                }
                Ok(_) => {}
                Err(reason) => report(&reason),
            }
        }
        tokio::time::sleep(ASK_AGAIN / 10).await;
    }
    None
}

/// Where the leader's log ends. A leader without traffic is silent until it is asked, and only it
/// can answer: it proves by heartbeats that it leads.
async fn ask_leader(
    shared: &NodeShared,
    group: &Group,
    others: &[BrokerId],
) -> Result<u64, String> {
    let mut told = "no other replica is known".to_owned();
    for other in others {
        match ask(shared, group, *other, Body::Barrier(wire::Barrier {})).await {
            Ok(Body::BarrierReply(reply)) => return Ok(reply.index),
            Ok(_) => {}
            Err(reason) => told = reason,
        }
    }
    Err(told)
}

async fn ask(
    shared: &NodeShared,
    group: &Group,
    broker: BrokerId,
    request: Body,
) -> Result<Body, String> {
    let peer = shared
        .transport
        .peer(broker)
        .ok_or_else(|| format!("broker {broker} is not known"))?;
    peer.request(group.id.0, request, ASK_LIMIT)
        .await
        .map_err(|e| e.to_string())
}

fn report(reported: &mut Instant, group: &Group, reason: &str) {
    if reported.elapsed() >= REPORT_INTERVAL {
        *reported = Instant::now();
        tracing::warn!(group = group.id.0, "still being rebuilt: {reason}");
    }
}

/// Ends the rebuild when every replica has been through it.
pub async fn watch_end(shared: Arc<NodeShared>, mut stop: watch::Receiver<bool>) {
    while shared.rebuild.is_active() {
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        let through = shared.groups().iter().all(|g| !g.guard.is_lost());
        if !through || !shared.rebuild.all_open.load(Ordering::Acquire) {
            continue;
        }
        match shared.rebuild.end() {
            Ok(()) => tracing::info!("all replicas are rebuilt"),
            Err(error) => {
                tracing::error!(
                    "cannot end the rebuild, it begins anew with the next start: {error}"
                );
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(term: u64) -> Body {
        Body::Append(wire::AppendRequest {
            vote: Some(wire::Vote {
                term,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn a_replica_keeps_what_an_earlier_process_promised() {
        let until = Instant::now() + Duration::from_millis(50);
        let guard = Guard::whole().promised_until(until);
        let vote = |leadership_transfer| {
            Body::Vote(wire::VoteRequest {
                leadership_transfer,
                ..Default::default()
            })
        };
        assert!(!guard.admits(&vote(false)) && !guard.may_vote());
        assert!(guard.admits(&vote(true)) && guard.admits(&append(1)));
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(guard.admits(&vote(false)) && guard.may_vote());
    }

    #[test]
    fn a_lost_replica_promises_nothing_it_may_have_promised_otherwise() {
        let guard = Guard::lost();
        let vote = Body::Vote(wire::VoteRequest::default());
        assert!(!guard.admits(&append(9)) && !guard.admits(&vote) && !guard.may_vote());
        guard.catch_up(Others {
            term: 7,
            longest: None,
        });
        assert!(!guard.admits(&append(6)), "a leader of an earlier term");
        assert!(guard.admits(&append(7)) && guard.admits(&append(8)));
        assert!(!guard.admits(&vote) && !guard.may_vote());
        guard.end();
        assert!(guard.admits(&append(1)) && guard.admits(&vote) && guard.may_vote());
    }

    fn vote(term: u64, last: Option<(u64, u64)>) -> Body {
        Body::Vote(wire::VoteRequest {
            vote: Some(wire::Vote {
                term,
                ..Default::default()
            }),
            last: last.map(|(term, index)| wire::LogId { term, index }),
            ..Default::default()
        })
    }

    fn answer(term: u64, last: Option<(u64, u64)>) -> wire::RebuildStateReply {
        wire::RebuildStateReply {
            term,
            log_end: Some(wire::LogEnd {
                last: last.map(|(term, index)| wire::LogId { term, index }),
            }),
            ..Default::default()
        }
    }

    fn newcomer() -> wire::RebuildStateReply {
        wire::RebuildStateReply {
            joining: true,
            empty: true,
            ..answer(0, None)
        }
    }

    #[test]
    fn a_lost_replica_votes_for_who_has_all_that_the_others_had() {
        let guard = Guard::lost();
        let known = Others::of(&[
            answer(5, Some((4, 90))),
            answer(7, Some((3, 100))),
            newcomer(),
        ]);
        guard.catch_up(known.expect("voters"));
        assert!(!guard.may_vote(), "it does not stand itself");
        for (allowed, term, last) in [
            (true, 8, Some((4, 90))),
            (true, 9, Some((5, 1))),
            (false, 7, Some((4, 90))),
            (false, 8, Some((4, 89))),
            (false, 8, Some((3, 100))),
            (false, 8, None),
        ] {
            assert_eq!(guard.admits(&vote(term, last)), allowed, "{term} {last:?}");
        }
    }

    #[test]
    fn a_lost_replica_stands_when_it_has_all_that_the_others_had() {
        let last = |term, index| Some(crate::types::log_id(term, index));
        let guard = Guard::lost();
        assert!(!guard.may_stand_again(9, last(9, 999)));
        let known = Others::of(&[answer(5, Some((4, 90))), answer(7, Some((3, 100)))]);
        guard.catch_up(known.expect("voters"));
        // In an earlier term it may have voted for another.
        assert!(!guard.may_stand_again(6, last(4, 90)));
        assert!(!guard.may_stand_again(7, last(4, 89)));
        assert!(guard.may_stand_again(7, last(4, 90)));
        guard.leave();
        assert!(!guard.may_stand_again(7, last(4, 90)));
    }

    #[test]
    fn a_lost_replica_votes_for_nobody_while_a_voter_does_not_tell_its_end() {
        let guard = Guard::lost();
        let silent = wire::RebuildStateReply {
            log_end: None,
            ..answer(7, None)
        };
        guard.catch_up(Others::of(&[answer(5, Some((4, 90))), silent]).expect("voters"));
        assert!(!guard.admits(&vote(9, Some((9, 999)))));
        assert!(guard.admits(&append(7)));
    }

    #[test]
    fn those_who_never_had_a_vote_tell_nothing() {
        assert_eq!(Others::of(&[]), None);
        assert_eq!(Others::of(&[newcomer(), newcomer()]), None);
    }

    #[test]
    fn a_replica_that_came_later_follows_and_does_not_vote_and_one_that_leaves_does_neither() {
        let vote = Body::Vote(wire::VoteRequest::default());
        let guard = Guard::joining();
        assert!(guard.admits(&append(1)) && !guard.admits(&vote) && !guard.may_vote());
        assert!(guard.is_joining() && !guard.is_lost());
        assert!(guard.should_ask());
        let known = Others::of(&[answer(5, Some((4, 90))), newcomer()]).expect("a voter");
        guard.may_be_needed(known);
        assert!(!guard.should_ask() && guard.is_joining() && !guard.may_vote());
        assert!(guard.admits(&append(1)));
        assert!(guard.admits(&self::vote(6, Some((4, 90)))));
        assert!(!guard.admits(&self::vote(5, Some((4, 90)))));
        assert!(!guard.admits(&self::vote(6, Some((4, 89)))));
        guard.end();
        assert!(guard.admits(&vote) && guard.may_vote());
        guard.leave();
        assert!(!guard.admits(&append(1)) && !guard.admits(&vote) && !guard.may_vote());
        guard.stay();
        assert!(guard.admits(&append(1)) && guard.may_vote());
    }

    #[test]
    fn the_marker_outlives_the_process() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(dir.path().join("journal")).expect("journal");
        assert!(!Rebuild::of(dir.path()).is_active());
        begin(dir.path(), "file 1 at byte 7").expect("set aside");
        assert!(!dir.path().join("journal").exists());
        let rebuild = Rebuild::of(dir.path());
        assert!(rebuild.is_active());
        let of = |ids: &[i32]| {
            let brokers: Vec<BrokerId> = ids.iter().copied().map(BrokerId).collect();
            rebuild.guard(&GroupReplicas {
                replicas: brokers.clone(),
                founders: brokers,
            })
        };
        assert!(of(&[1]).may_vote() && !of(&[1, 2, 3]).may_vote());
        rebuild.end().expect("end");
        assert!(!Rebuild::of(dir.path()).is_active());
    }
}

//! Copies the committed batches a replica lacks from another one, as a consumer would read them.

use crate::host::Host;
use crate::ids::BrokerId;
use crate::transport::Transport;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidelog_proto::peer::{self as wire, message::Body};
use tidelog_storage::batch::BatchHeader;
use tidelog_storage::error::StorageError;
use tidelog_storage::ids::GroupId;
use tidelog_storage::log::PartitionLog;

/// Bytes asked for at once: what the source and this broker each hold for one copy.
const READ_BYTES: u32 = 1024 * 1024;
const READ_LIMIT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Where a state machine gets missing batches from; a seam for tests without a network.
pub trait CatchUp: Send + Sync + 'static {
    /// Brings `log` to the state `manifest` describes. Any of `sources` may be read, as the batches
    /// are committed; ends only when the copy is whole, or when this broker stops. What a compacted log
    /// has is in closed segments.
    fn copy(
        &self,
        group: GroupId,
        log: Arc<PartitionLog>,
        sources: Vec<BrokerId>,
        manifest: Bytes,
    ) -> BoxFuture<'static, io::Result<()>>;
}

/// Reads from peers.
pub struct PeerCatchUp(pub Weak<Transport>);

impl CatchUp for PeerCatchUp {
    fn copy(
        &self,
        group: GroupId,
        log: Arc<PartitionLog>,
        sources: Vec<BrokerId>,
        manifest: Bytes,
    ) -> BoxFuture<'static, io::Result<()>> {
        let transport = self.0.clone();
        Box::pin(async move {
            // Nobody waits for a replica that is only to become a voter.
            let me = transport.upgrade().map(|t| t.identity.broker);
            let comes = me.is_some_and(|me| !sources.contains(&me));
            let mut sources = Sources::new(sources);
            // Whose log, in which state, all that is here agrees with.
            let mut seen = None;
            if log.needs_refresh(&manifest).map_err(io::Error::other)? {
                seen = Some(refresh(&transport, group, &log, &mut sources).await?);
            }
            let (first, end) = {
                let (log, manifest) = (log.clone(), manifest.clone());
                on_disk(&transport, group, move || log.begin_catch_up(&manifest)).await?
            };
            tracing::info!(
                group = group.0,
                from = first,
                to = end,
                "copying from peers"
            );
            let mut offset = first;
            let mut disagrees = false;
            while offset < end {
                let from = sources.current()?;
                let copied = match read(&transport, from, group, offset, end).await {
                    Ok(reply) => {
                        let state = Some((from, reply.gone_below));
                        // What is here may be deleted by tombstones that are gone from what comes.
                        disagrees |= seen != state
                            && reply.gone_below > offset
                            && offset > log.log_start_offset();
                        seen = state;
                        if comes && let Some(transport) = transport.upgrade() {
                            transport.throttle.take(reply.batches.len()).await;
                        }
                        append(&transport, group, &log, reply, end).await?
                    }
                    Err(error) => Err(error.to_string()),
                };
                match copied {
                    Ok(next) => offset = next,
                    // Failing here would stop the group for good, and half a copy is of no use to
                    // anyone: go on with the next replica until one answers.
                    Err(reason) if transport.strong_count() > 0 => {
                        tracing::warn!(group = group.0, "copy from broker {from}: {reason}");
                        tokio::time::sleep(RETRY_PAUSE).await;
                        sources.next();
                    }
                    Err(reason) => return Err(io::Error::other(reason)),
                }
            }
            if disagrees {
                log.close_segment_of(end - 1);
                refresh(&transport, group, &log, &mut sources).await?;
            }
            on_disk(&transport, group, move || log.finish_catch_up(&manifest)).await
        })
    }
}

/// Replicas to copy from: one as long as it answers, then the next.
struct Sources {
    all: Vec<BrokerId>,
    at: usize,
}

impl Sources {
    fn new(all: Vec<BrokerId>) -> Sources {
        Sources { all, at: 0 }
    }

    fn current(&self) -> io::Result<BrokerId> {
        let source = self.all.get(self.at).copied();
        source.ok_or_else(|| io::Error::other("no replica to copy from"))
    }

    fn next(&mut self) {
        self.at = (self.at + 1) % self.all.len().max(1);
    }
}

/// Appends what was read and gives the log's new end; waits for room on a full disk. What the source
/// has sent wrong is told as text: another one may have it right.
async fn append(
    transport: &Weak<Transport>,
    group: GroupId,
    log: &Arc<PartitionLog>,
    reply: wire::ReadLogReply,
    end: i64,
) -> io::Result<Result<i64, String>> {
    let (host, log) = (host_of(transport)?, log.clone());
    let appended = with_room(
        &host,
        group,
        || transport.strong_count() > 0,
        move || {
            if reply.sparse {
                let until = reply.next_offset.min(end);
                log.append_copied_sparse(&reply.batches, until, reply.gone_below)?;
            } else {
                log.append_copied(&reply.batches)?;
            }
            Ok(log.log_end_offset())
        },
    );
    match appended.await? {
        Ok(end) => Ok(Ok(end)),
        Err(error @ (StorageError::Corrupt { .. } | StorageError::Batch(_))) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Does `work`, again and again while the disk is full, as long as it `goes_on`: a Raft core that is told of an
/// error ends for good.
pub(crate) async fn with_room<T: Send + 'static>(
    host: &Host,
    group: GroupId,
    goes_on: impl Fn() -> bool,
    work: impl Fn() -> Result<T, StorageError> + Send + Sync + 'static,
) -> io::Result<Result<T, StorageError>> {
    let work = Arc::new(work);
    let mut waiting = false;
    loop {
        let attempt = work.clone();
        match host
            .disk_work(move || attempt())
            .await
            .map_err(io::Error::other)?
        {
            Err(StorageError::DiskFull { path }) if goes_on() => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::warn!(
                        group = group.0,
                        "disk full: the copy to {} waits for space",
                        path.display()
                    );
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            done => return Ok(done),
        }
    }
}

/// Batches of another replica from `from_offset` on: at least one, or the word that there is none.
pub(crate) async fn read(
    transport: &Weak<Transport>,
    source: BrokerId,
    group: GroupId,
    from_offset: i64,
    end_offset: i64,
) -> io::Result<wire::ReadLogReply> {
    let peer = transport
        .upgrade()
        .and_then(|t| t.peer(source))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the source is gone"))?;
    let request = Body::ReadLog(wire::ReadLog {
        from_offset,
        end_offset,
        max_bytes: READ_BYTES,
    });
    match peer.request(group.0, request, READ_LIMIT).await {
        Ok(Body::ReadLogReply(reply))
            if reply.error.is_empty()
                && (!reply.batches.is_empty()
                    || reply.sparse && reply.next_offset > from_offset) =>
        {
            Ok(reply)
        }
        Ok(Body::ReadLogReply(reply)) if reply.error.is_empty() => {
            Err(io::Error::other("it has not got that far"))
        }
        Ok(Body::ReadLogReply(reply)) => Err(io::Error::other(reply.error)),
        Ok(_) => Err(io::Error::other("unexpected answer to a log read")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What one replica has in a range of offsets, perhaps with some more around it.
pub(crate) struct RangeCopy {
    pub batches: Vec<u8>,
    pub sparse: bool,
    pub gone_below: i64,
}

/// Reads from `source` until `until` is reached or there are `enough` bytes.
pub(crate) async fn read_range(
    transport: &Weak<Transport>,
    source: BrokerId,
    group: GroupId,
    (mut from, until): (i64, i64),
    enough: usize,
) -> io::Result<RangeCopy> {
    let mut copy = RangeCopy {
        batches: Vec::new(),
        sparse: false,
        gone_below: 0,
    };
    while from < until && (copy.sparse || copy.batches.len() < enough) {
        let reply = read(transport, source, group, from, until).await?;
        from = reply.next_offset.max(end_of(&reply.batches, from));
        copy.batches.extend_from_slice(&reply.batches);
        copy.sparse |= reply.sparse;
        copy.gone_below = copy.gone_below.max(reply.gone_below);
    }
    Ok(copy)
}

/// Offset after the last of `batches`; `from` when there is none.
fn end_of(batches: &[u8], from: i64) -> i64 {
    let (mut rest, mut end) = (batches, from);
    while let Ok(header) = BatchHeader::parse(rest) {
        end = header.last_offset() + 1;
        rest = rest.get(header.size_in_bytes()..).unwrap_or_default();
    }
    end
}

/// Makes all closed segments what one source has there, in one state of its compaction; which source
/// and state. Tombstones that this replica has never seen are gone there.
async fn refresh(
    transport: &Weak<Transport>,
    group: GroupId,
    log: &Arc<PartitionLog>,
    sources: &mut Sources,
) -> io::Result<(BrokerId, i64)> {
    loop {
        let from = sources.current()?;
        match refresh_from(transport, group, log, from).await {
            Ok(Some(gone_below)) => return Ok((from, gone_below)),
            // It has dropped more meanwhile: what was compared first may be too old.
            Ok(None) => {}
            Err(error) if transport.strong_count() > 0 => {
                tracing::warn!(group = group.0, "comparing with broker {from}: {error}");
                tokio::time::sleep(RETRY_PAUSE).await;
                sources.next();
            }
            Err(error) => return Err(error),
        }
    }
}

async fn refresh_from(
    transport: &Weak<Transport>,
    group: GroupId,
    log: &Arc<PartitionLog>,
    from: BrokerId,
) -> io::Result<Option<i64>> {
    let mut states = Vec::new();
    for range in log.closed_segments(i64::MAX) {
        tracing::info!(
            group = group.0,
            from = range.start,
            to = range.end,
            "comparing with broker {from}"
        );
        let (base, bounds) = (
            range.start,
            (range.start.max(log.log_start_offset()), range.end),
        );
        let opened = on(transport, log, move |log| log.refresh(base, i64::MAX)).await?;
        let Some(mut refresh) = opened else {
            continue;
        };
        let (mut next, until) = bounds;
        while next < until {
            let reply = read(transport, from, group, next, until).await?;
            states.push(reply.gone_below);
            next = reply.next_offset.max(end_of(&reply.batches, next));
            let add = move |_: &PartitionLog| refresh.add(&reply.batches).map(|()| refresh);
            refresh = on(transport, log, add).await?;
        }
        on(transport, log, move |log| log.finish_refresh(refresh)).await?;
    }
    let last = states.last().copied().unwrap_or(0);
    Ok(states.iter().all(|state| *state == last).then_some(last))
}

async fn on<T: Send + 'static>(
    transport: &Weak<Transport>,
    log: &Arc<PartitionLog>,
    work: impl FnOnce(&PartitionLog) -> Result<T, StorageError> + Send + 'static,
) -> io::Result<T> {
    let log = log.clone();
    blocking(&host_of(transport)?, move || work(&log)).await
}

fn host_of(transport: &Weak<Transport>) -> io::Result<Host> {
    let transport = transport.upgrade();
    let stopped = || io::Error::other("this broker stops");
    transport.map(|t| t.host.clone()).ok_or_else(stopped)
}

async fn on_disk<T: Send + 'static>(
    transport: &Weak<Transport>,
    group: GroupId,
    work: impl Fn() -> Result<T, StorageError> + Send + Sync + 'static,
) -> io::Result<T> {
    let goes_on = || transport.strong_count() > 0;
    with_room(&host_of(transport)?, group, goes_on, work)
        .await?
        .map_err(io::Error::other)
}

pub(crate) async fn blocking<T: Send + 'static>(
    host: &Host,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> io::Result<T> {
    host.disk_work(work)
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Work that finds the disk full three times.
    fn third_time_lucky(
        tried: &Arc<AtomicUsize>,
    ) -> impl Fn() -> Result<usize, StorageError> + use<> {
        let tried = tried.clone();
        move || match tried.fetch_add(1, Ordering::AcqRel) {
            before @ 0..3 => Err(StorageError::DiskFull {
                path: PathBuf::from(before.to_string()),
            }),
            before => Ok(before),
        }
    }

    #[tokio::test]
    async fn what_needs_room_waits_for_it() {
        let tried = Arc::default();
        let work = third_time_lucky(&tried);
        let done = with_room(&Host::System, GroupId(1), || true, work).await;
        assert_eq!(done.expect("ran").expect("done"), 3);
    }

    #[tokio::test]
    async fn who_is_to_stop_does_not_wait_for_room() {
        let tried = Arc::default();
        let work = third_time_lucky(&tried);
        let done = with_room(&Host::System, GroupId(1), || false, work).await;
        let full = matches!(done.expect("ran"), Err(StorageError::DiskFull { .. }));
        assert!(full && tried.load(Ordering::Acquire) == 1);
    }
}

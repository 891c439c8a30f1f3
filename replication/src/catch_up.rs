//! Copies the committed batches a replica lacks from another one, as a consumer would read them.

use crate::ids::BrokerId;
use crate::partition::Partition;
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
use tidelog_storage::log::{PartitionLog, Stretch};

/// Bytes asked for at once: what the source and this broker each hold for one copy.
const READ_BYTES: u32 = 1024 * 1024;
const READ_LIMIT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Where a state machine gets missing batches from; a seam for tests without a network.
pub trait CatchUp: Send + Sync + 'static {
    /// Brings `log` to the state `manifest` describes. Any of `sources` may be read, as the batches
    /// are committed; ends only when the copy is whole, or when this broker stops.
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
            let (first, end) = {
                let (log, manifest) = (log.clone(), manifest.clone());
                blocking(move || log.begin_catch_up(&manifest)).await?
            };
            tracing::info!(
                group = group.0,
                from = first,
                to = end,
                "copying from peers"
            );
            let mut offset = first;
            let mut sources = sources.iter().copied().cycle();
            let mut source = sources.next();
            while offset < end {
                let from = source.ok_or_else(|| io::Error::other("no replica to copy from"))?;
                let copied = match read(&transport, from, group, offset, end).await {
                    Ok(batches) => append(&transport, group, &log, batches).await?,
                    Err(error) => Err(error.to_string()),
                };
                match copied {
                    Ok(next) => offset = next,
                    // Failing here would stop the group for good, and half a copy is of no use to
                    // anyone: go on with the next replica until one answers.
                    Err(reason) if transport.strong_count() > 0 => {
                        tracing::warn!(group = group.0, "copy from broker {from}: {reason}");
                        tokio::time::sleep(RETRY_PAUSE).await;
                        source = sources.next();
                    }
                    Err(reason) => return Err(io::Error::other(reason)),
                }
            }
            blocking(move || log.finish_catch_up(&manifest)).await
        })
    }
}

/// Appends what was read and gives the log's new end; waits for room on a full disk. What the source
/// has sent wrong is told as text: another one may have it right.
async fn append(
    transport: &Weak<Transport>,
    group: GroupId,
    log: &Arc<PartitionLog>,
    batches: Bytes,
) -> io::Result<Result<i64, String>> {
    let mut waiting = false;
    loop {
        let (log, batches) = (log.clone(), batches.clone());
        let appended = tokio::task::spawn_blocking(move || {
            log.append_copied(&batches)?;
            Ok(log.log_end_offset())
        })
        .await
        .map_err(io::Error::other)?;
        match appended {
            Ok(end) => return Ok(Ok(end)),
            Err(StorageError::DiskFull { path }) if transport.strong_count() > 0 => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::warn!(
                        group = group.0,
                        "disk full: the copy to {} waits for space",
                        path.display()
                    );
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error @ (StorageError::Corrupt { .. } | StorageError::Batch(_))) => {
                return Ok(Err(error.to_string()));
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

async fn read(
    transport: &Weak<Transport>,
    source: BrokerId,
    group: GroupId,
    from_offset: i64,
    end_offset: i64,
) -> io::Result<Bytes> {
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
        Ok(Body::ReadLogReply(reply)) if reply.error.is_empty() && !reply.batches.is_empty() => {
            Ok(reply.batches)
        }
        Ok(Body::ReadLogReply(reply)) if reply.error.is_empty() => {
            Err(io::Error::other("it has not got that far"))
        }
        Ok(Body::ReadLogReply(reply)) => Err(io::Error::other(reply.error)),
        Ok(_) => Err(io::Error::other("unexpected answer to a log read")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Replaces the damaged stretch at `offset` of a partition by what another replica has there.
pub async fn mend(partition: &Partition, offset: i64) {
    let (group, log) = (partition.spec.group, partition.log.clone());
    let Some(stretch) = log.stretch_of(offset) else {
        return;
    };
    let transport = Arc::downgrade(&partition.transport);
    let me = partition.transport.identity.broker;
    let others = partition.spec.replicas.iter().filter(|r| **r != me);
    let name = format!("{}-{}", partition.spec.topic, partition.spec.partition);
    for other in others.clone() {
        let mended = async {
            let batches = read_stretch(&transport, *other, group, &stretch).await?;
            let (log, stretch) = (log.clone(), stretch.clone());
            blocking(move || log.mend(&stretch, &batches)).await
        };
        match mended.await {
            Ok(()) => {
                tracing::warn!(
                    "{name}: damaged records at offset {offset} replaced by broker {other}'s"
                );
                return;
            }
            Err(error) => tracing::warn!("{name}: damaged records from broker {other}: {error}"),
        }
    }
    tracing::error!(
        "{name}: the records at offset {offset} are damaged on this disk, and no other replica could \
         give them; it is tried again when they are read again"
    );
}

async fn read_stretch(
    transport: &Weak<Transport>,
    source: BrokerId,
    group: GroupId,
    stretch: &Stretch,
) -> io::Result<Vec<u8>> {
    let mut batches = Vec::new();
    let mut from = stretch.from;
    while batches.len() < stretch.bytes {
        let more = read(transport, source, group, from, stretch.until).await?;
        let mut rest = &more[..];
        while let Ok(header) = BatchHeader::parse(rest) {
            from = header.last_offset() + 1;
            rest = rest.get(header.size_in_bytes()..).unwrap_or_default();
        }
        batches.extend_from_slice(&more);
    }
    // The last answer may hold more than the stretch, up to where its last offset lies.
    batches.truncate(stretch.bytes);
    Ok(batches)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, tidelog_storage::error::StorageError> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

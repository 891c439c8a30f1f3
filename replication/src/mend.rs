//! Replaces damaged records by another replica's.

use crate::catch_up::{RangeCopy, blocking, read_range};
use crate::node::checkpoint_durably;
use crate::partition::Partition;
use std::io;
use std::sync::Arc;
use tidelog_storage::error::StorageError;
use tidelog_storage::log::{ForeignBatches, Stretch};

/// Replaces the damaged stretch at `offset` of a partition by what another replica has there.
pub async fn mend(partition: &Arc<Partition>, offset: i64) {
    let (group, log) = (partition.spec.group, partition.log.clone());
    let Some(stretch) = log.stretch_of(offset) else {
        return;
    };
    let transport = Arc::downgrade(&partition.transport);
    let me = partition.transport.identity.broker;
    let replicas = partition.group.replicas();
    let others = replicas.iter().filter(|r| **r != me);
    let name = format!("{}-{}", partition.spec.topic, partition.spec.partition);
    for other in others.clone() {
        let mended = async {
            let bounds = (stretch.from.max(log.log_start_offset()), stretch.until);
            let copy = read_range(&transport, *other, group, bounds, stretch.bytes).await?;
            replace(partition, offset, stretch.clone(), copy).await
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

/// In place where both replicas have the same bytes, else by writing the segment anew.
async fn replace(
    partition: &Arc<Partition>,
    offset: i64,
    stretch: Stretch,
    mut copy: RangeCopy,
) -> io::Result<()> {
    let log = partition.log.clone();
    let host = partition.transport.host.clone();
    if !copy.sparse && !stretch.sparse {
        // The last answer may hold more than the stretch, up to where its last offset lies.
        copy.batches.truncate(stretch.bytes);
        return blocking(&host, move || log.mend(&stretch, &copy.batches)).await;
    }
    let partition = partition.clone();
    blocking(&host, move || {
        log.close_segment_of(offset);
        let closed_before = log.active_base_offset();
        checkpoint_durably(&partition.group.log, &partition.group.machine)
            .map_err(|e| StorageError::from_io(log.dir(), e))?;
        let batches = ForeignBatches {
            bytes: &copy.batches,
            gone_below: copy.gone_below,
        };
        log.splice(&stretch, closed_before, batches)
    })
    .await
}

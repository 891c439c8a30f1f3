//! ConsumerGroupTargetAssignmentMemberValue and ConsumerGroupCurrentMemberAssignmentValue.

use crate::coordinator::group::consumer::member::{CurrentAssignment, MemberState};
use crate::coordinator::group::consumer::partitions::{Held, Partitions};
use crate::coordinator::{Malformed, Reader, Writer};

/// Tag of the epochs at which partitions were assigned (KIP-1251).
const EPOCHS: u32 = 0;

pub fn encode_target(w: &mut Writer, v: &Partitions) {
    w.array_of(true, v, |w, (topic, partitions)| {
        w.uuid(*topic);
        w.array_of(true, partitions, |w, p| {
            w.i32(*p);
        });
        w.no_tags();
    });
    w.no_tags();
}

pub fn decode_target(r: &mut Reader<'_>) -> Result<Partitions, Malformed> {
    let topics = r.array_of(true, |r| {
        let topic = r.uuid()?;
        let partitions = r.array_of(true, Reader::i32)?;
        r.skip_tagged()?;
        Ok((topic, partitions.into_iter().collect()))
    })?;
    Ok(topics.into_iter().collect())
}

pub fn encode_current(w: &mut Writer, v: &CurrentAssignment) {
    w.i32(v.epoch).i32(v.previous_epoch).i8(v.state.code());
    encode_held(w, &v.assigned);
    encode_held(w, &v.revoking);
    w.no_tags();
}

fn encode_held(w: &mut Writer, held: &Held) {
    w.array_of(true, held, |w, (topic, partitions)| {
        w.uuid(*topic);
        w.array_of(true, partitions.keys(), |w, p| {
            w.i32(*p);
        });
        let mut epochs = Writer::default();
        epochs.array_of(true, partitions.values(), |w, e| {
            w.i32(*e);
        });
        let epochs = epochs.finish();
        w.unsigned_varint(1)
            .unsigned_varint(EPOCHS)
            .unsigned_varint(epochs.len() as u32)
            .raw(&epochs);
    });
}

pub fn decode_current(r: &mut Reader<'_>) -> Result<CurrentAssignment, Malformed> {
    let epoch = r.i32()?;
    Ok(CurrentAssignment {
        epoch,
        previous_epoch: r.i32()?,
        state: MemberState::of(r.i8()?),
        assigned: decode_held(r, epoch)?,
        revoking: decode_held(r, epoch)?,
    })
}

/// Without epochs, as Kafka before 4.3 wrote it, the member's epoch stands for all.
fn decode_held(r: &mut Reader<'_>, member_epoch: i32) -> Result<Held, Malformed> {
    let topics = r.array_of(true, |r| {
        let topic = r.uuid()?;
        let partitions = r.array_of(true, Reader::i32)?;
        let mut epochs = Vec::new();
        r.tagged(|tag, r| {
            if tag == EPOCHS {
                epochs = r.nullable_array_of(true, Reader::i32)?.unwrap_or_default();
            }
            Ok(())
        })?;
        let held = partitions
            .into_iter()
            .enumerate()
            .map(|(i, p)| (p, epochs.get(i).copied().unwrap_or(member_epoch)))
            .collect();
        Ok((topic, held))
    })?;
    Ok(topics.into_iter().collect())
}

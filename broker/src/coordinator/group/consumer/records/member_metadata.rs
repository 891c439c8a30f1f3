//! ConsumerGroupMemberMetadataValue.

use crate::coordinator::group::consumer::member::{ClassicMember, MemberMetadata};
use crate::coordinator::{Malformed, Reader, Writer};

/// Tag of `ClassicMemberMetadata`.
const CLASSIC: u32 = 0;

pub fn encode(w: &mut Writer, v: &MemberMetadata) {
    w.nullable_string(true, v.instance_id.as_deref())
        .nullable_string(true, v.rack_id.as_deref())
        .string(true, &v.client_id)
        .string(true, &v.client_host)
        .array_of(true, &v.topics, |w, topic| {
            w.string(true, topic);
        })
        .nullable_string(true, v.regex.as_deref())
        .i32(v.rebalance_timeout_ms)
        .nullable_string(true, v.assignor.as_deref());
    match &v.classic {
        None => w.no_tags(),
        Some(classic) => {
            let mut field = Writer::default();
            // A tagged struct that may be null says first that it is not.
            field.i8(1).i32(classic.session_timeout_ms);
            field.array_of(true, &classic.protocols, |w, (name, metadata)| {
                w.string(true, name).bytes(true, metadata).no_tags();
            });
            field.no_tags();
            let field = field.finish();
            w.unsigned_varint(1)
                .unsigned_varint(CLASSIC)
                .unsigned_varint(field.len() as u32)
                .raw(&field)
        }
    };
}

pub fn decode(r: &mut Reader<'_>) -> Result<MemberMetadata, Malformed> {
    let mut v = MemberMetadata {
        instance_id: r.nullable_string(true)?,
        rack_id: r.nullable_string(true)?,
        client_id: r.string(true)?,
        client_host: r.string(true)?,
        topics: r.array_of(true, |r| r.string(true))?.into_iter().collect(),
        regex: r.nullable_string(true)?,
        rebalance_timeout_ms: r.i32()?,
        assignor: r.nullable_string(true)?,
        classic: None,
    };
    r.tagged(|tag, r| {
        if tag == CLASSIC && r.i8()? == 1 {
            v.classic = Some(ClassicMember {
                session_timeout_ms: r.i32()?,
                protocols: r.array_of(true, |r| {
                    let protocol = (r.string(true)?, r.bytes(true)?);
                    r.skip_tagged()?;
                    Ok(protocol)
                })?,
            });
        }
        Ok(())
    })?;
    Ok(v)
}

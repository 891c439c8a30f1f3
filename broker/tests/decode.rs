//! What a frame from the network can do to the decoder: nothing but be refused.

use bytes::{BufMut, Bytes};
use kafka_protocol::messages::ApiKey;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidelog_broker::kafka::dispatch::{decode_frame, served};
use tidelog_broker::kafka::shape::{self, Field, Kind, Malformed};
use tidelog_broker::kafka::shape_table;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks for.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local
// number without a destructor, so touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED_BYTES.try_with(|sum| sum.set(sum.get().saturating_add(layout.size())));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The verdict on a frame, with the bytes behind the request, and the bytes taken to reach it.
fn decode(frame: &[u8]) -> (Result<usize, String>, usize) {
    let frame = Bytes::copy_from_slice(frame);
    let before = ALLOCATED_BYTES.get();
    let verdict = decode_frame(frame);
    (verdict, ALLOCATED_BYTES.get() - before)
}

/// Messages of errors, and a constant share of a frame; far below what an unchecked count takes.
fn allowed_bytes(frame: &[u8]) -> usize {
    32 * 1024 + 300 * frame.len()
}

/// A small generator whose whole state is the seed that a failing case prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Writes a valid request by its layout.
struct Writer {
    version: i16,
    flexible: bool,
    random: Random,
    out: Vec<u8>,
}

impl Writer {
    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        let present = fields
            .iter()
            .filter(|f| (f.since..=f.until).contains(&version));
        let (tagged, plain): (Vec<&Field>, Vec<&Field>) = present.partition(|f| f.tag.is_some());
        for field in plain {
            self.field(field.kind);
        }
        if !self.flexible {
            return;
        }
        let mut known = tagged;
        known.retain(|_| self.random.below(2) == 0);
        let unknown = self.random.below(6).saturating_sub(3);
        self.varint(known.len() as u64 + unknown);
        for field in known {
            let outer = std::mem::take(&mut self.out);
            self.field(field.kind);
            let inner = std::mem::replace(&mut self.out, outer);
            self.varint(u64::from(field.tag.expect("tagged")));
            self.varint(inner.len() as u64);
            self.out.extend(inner);
        }
        for tag in 0..unknown {
            self.varint(tag + 40);
            self.text_bytes();
        }
    }

    fn field(&mut self, kind: Kind) {
        match kind {
            Kind::Fixed(size) => self.noise(size),
            Kind::String if !self.flexible => self.short_string(),
            Kind::ShortString => self.short_string(),
            Kind::String => {
                let length = self.random.below(200);
                self.varint(length + 1);
                self.text(length);
            }
            Kind::Bytes => {
                let length = self.count(400);
                self.noise(length);
            }
            Kind::Fixeds(size) => {
                let count = self.count(5);
                self.noise(count * size);
            }
            Kind::Strings => {
                let count = self.count(5);
                (0..count).for_each(|_| self.field(Kind::String));
            }
            Kind::Structs(fields) => {
                let count = self.count(4);
                (0..count).for_each(|_| self.fields(fields));
            }
            Kind::OptionalStruct(fields) => {
                let present = self.random.below(2) == 0;
                self.out.put_i8(if present { 1 } else { -1 });
                if present {
                    self.fields(fields);
                }
            }
            Kind::Struct(fields) => self.fields(fields),
        }
    }

    fn count(&mut self, bound: u64) -> usize {
        let count = self.random.below(bound);
        if self.flexible {
            self.varint(count + 1);
        } else {
            self.out.put_i32(count as i32);
        }
        count as usize
    }

    fn short_string(&mut self) {
        let length = self.random.below(200);
        self.out.put_i16(length as i16);
        self.text(length);
    }

    fn text_bytes(&mut self) {
        let length = self.random.below(20);
        self.varint(length);
        self.text(length);
    }

    fn text(&mut self, length: u64) {
        for _ in 0..length {
            let letter = b'a' + self.random.below(26) as u8;
            self.out.push(letter);
        }
    }

    fn noise(&mut self, length: usize) {
        for _ in 0..length {
            let byte = self.random.below(256) as u8;
            self.out.push(byte);
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

/// A valid frame and the length of its header.
fn frame(api: ApiKey, version: i16, seed: u64) -> (Vec<u8>, usize) {
    let mut writer = Writer {
        version,
        flexible: false,
        random: Random(seed),
        out: Vec::new(),
    };
    writer.out.put_i16(api as i16);
    writer.out.put_i16(version);
    writer.out.put_i32(7);
    writer.short_string();
    if api.request_header_version(version) >= 2 {
        writer.out.push(0);
    }
    let header = writer.out.len();
    let shape = shape_table::of(api).expect("a served API has a shape");
    writer.flexible = version >= shape.flexible;
    writer.fields(shape.fields);
    (writer.out, header)
}

fn all_versions() -> impl Iterator<Item = (ApiKey, i16)> {
    served()
        .into_iter()
        .flat_map(|(api, min, max)| (min..=max).map(move |version| (api, version)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The layouts are the decoder's: both take all of a request.
    #[test]
    fn layouts_agree_with_the_decoder(seed: u64) {
        for (api, version) in all_versions() {
            let (frame, header) = frame(api, version, seed);
            let taken = shape::check(api, version, &frame[header..]);
            prop_assert_eq!(taken, Ok(frame.len() - header), "{:?} v{}", api, version);
            let (verdict, bytes) = decode(&frame);
            prop_assert_eq!(verdict, Ok(0), "{:?} v{}", api, version);
            prop_assert!(bytes <= allowed_bytes(&frame), "{:?} v{}: {} bytes", api, version, bytes);
            if frame.len() > header {
                let short = &frame[..frame.len() - 1];
                prop_assert!(shape::check(api, version, &short[header..]).is_err());
            }
        }
    }

    /// Damaged requests are decoded or refused; neither takes much memory, and nothing panics.
    #[test]
    fn damage_takes_little_memory(seed: u64, damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        for (api, version) in all_versions() {
            let (mut frame, _) = frame(api, version, seed);
            for (at, byte) in &damage {
                // The first eight bytes choose the request.
                let at = 8 + usize::from(*at) % (frame.len() - 8);
                frame[at] = *byte;
            }
            let (_, bytes) = decode(&frame);
            prop_assert!(bytes <= allowed_bytes(&frame), "{:?} v{}: {} bytes for {:02x?}", api, version, bytes, frame);
        }
    }

    #[test]
    fn noise_takes_little_memory(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        for (api, version) in all_versions() {
            let mut frame = Vec::new();
            frame.put_i16(api as i16);
            frame.put_i16(version);
            frame.put_slice(&[0, 0, 0, 7, 0xff, 0xff]);
            if api.request_header_version(version) >= 2 {
                frame.push(0);
            }
            frame.extend(&noise);
            let (_, bytes) = decode(&frame);
            prop_assert!(bytes <= allowed_bytes(&frame), "{:?} v{}: {} bytes", api, version, bytes);
        }
        let (_, bytes) = decode(&noise);
        prop_assert!(bytes <= allowed_bytes(&noise));
    }
}

/// Every count and length of every request, replaced by the largest ones.
#[test]
fn enormous_counts_are_refused() {
    for (api, version) in all_versions() {
        for seed in 0..20 {
            let (valid, header) = frame(api, version, seed);
            for at in header..valid.len() {
                for enormous in [
                    &[0x7f, 0xff, 0xff, 0xff][..],
                    &[0x00, 0xff, 0xff, 0xff],
                    &[0xff, 0xff, 0xff, 0xff, 0x07],
                ] {
                    let mut damaged = valid.clone();
                    let end = valid.len().min(at + enormous.len());
                    damaged.splice(at..end, enormous.iter().copied());
                    let (_, bytes) = decode(&damaged);
                    assert!(
                        bytes <= allowed_bytes(&damaged),
                        "{api:?} v{version}: {bytes} bytes for {damaged:02x?}"
                    );
                }
            }
        }
    }
}

/// Counts that the bytes do hold, but whose elements would take far more memory than they came in.
#[test]
fn a_frame_of_tiny_elements_is_refused() {
    const ELEMENTS: usize = 1 << 20;
    // Topics with an empty name and no tags: two bytes each.
    let mut body = Vec::new();
    let mut count = ELEMENTS + 1;
    while count >= 0x80 {
        body.push(count as u8 | 0x80);
        count >>= 7;
    }
    body.push(count as u8);
    body.resize(body.len() + 2 * ELEMENTS, 1);
    for at in (0..2 * ELEMENTS).step_by(2) {
        let end = body.len() - at;
        body[end - 1] = 0;
    }
    body.extend([0, 0, 0, 1, 0xff, 0]);
    let refused = shape::check(ApiKey::DescribeTopicPartitions, 0, &body);
    assert!(
        matches!(refused, Err(Malformed::TooCostly(_))),
        "{refused:?}"
    );

    // One struct with a million tags of no content: four bytes each.
    let mut tags = vec![0; 6];
    tags.extend([0xff, 0xff, 0x3f]);
    for tag in 0..0x000f_ffff_u32 {
        let tag = tag + 0x4000;
        tags.extend([
            tag as u8 | 0x80,
            (tag >> 7) as u8 | 0x80,
            (tag >> 14) as u8,
            0,
        ]);
    }
    let refused = shape::check(ApiKey::DescribeCluster, 0, &tags[5..]);
    assert!(
        matches!(refused, Err(Malformed::TooCostly(_))),
        "{refused:?}"
    );
}

#[test]
fn every_served_api_has_a_layout() {
    for (api, ..) in served() {
        assert!(shape_table::of(api).is_some(), "{api:?}");
    }
}

//! Incremental fetch sessions (KIP-227): a client names its partitions once, later only what changes,
//! and is answered only about partitions that have something new.
//!
//! The rules are those of Kafka's `FetchSession` and `FetchSessionCache`: epoch 0 asks for all and for a
//! new session, −1 for all without one, and any other has to be the session's next.

use super::fetch_encode::{FetchAnswer, PartitionAnswer, TopicAnswer};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Session epochs with a meaning of their own.
const NEW_SESSION: i32 = 0;
const NO_SESSION: i32 = -1;
/// First version that names topics by id.
const FIRST_WITH_IDS: i16 = 13;
/// A session neither used nor created for this long may give way to another, as in Kafka.
const EVICTABLE_AFTER: Duration = Duration::from_secs(120);
/// Partitions of all sessions together: a bound on memory where Kafka has none.
const PARTITIONS_MAX: usize = 1_000_000;

/// A partition a client wants to read, and from where.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub topic: TopicName,
    pub topic_id: Uuid,
    pub partition: i32,
    /// −1: the client does not know.
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    /// −1: the client does not say.
    pub last_fetched_epoch: i32,
    pub max_bytes: i32,
}

impl Asked {
    fn new(topic: &TopicName, topic_id: Uuid, partition: &FetchPartition) -> Self {
        Self {
            topic: topic.clone(),
            topic_id,
            partition: partition.partition,
            current_leader_epoch: partition.current_leader_epoch,
            fetch_offset: partition.fetch_offset,
            last_fetched_epoch: partition.last_fetched_epoch,
            max_bytes: partition.partition_max_bytes,
        }
    }

    fn key(&self) -> Key {
        Key::new(&self.topic, self.topic_id, self.partition)
    }
}

/// By name before version 13, by id since; the other one is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(TopicName, Uuid, i32);

impl Key {
    fn new(topic: &TopicName, topic_id: Uuid, partition: i32) -> Self {
        if topic_id.is_nil() {
            Self(topic.clone(), topic_id, partition)
        } else {
            Self(TopicName::default(), topic_id, partition)
        }
    }
}

/// A partition as the client was last told of it.
#[derive(Debug)]
struct Cached {
    asked: Asked,
    high_watermark: i64,
    log_start_offset: i64,
}

impl Cached {
    /// Whether the client has to be told `answer`; remembers what it is told.
    fn update(&mut self, answer: &PartitionAnswer) -> bool {
        let failed = answer.error_code != 0 || answer.diverging.is_some();
        let moved = self.high_watermark != answer.high_watermark
            || self.log_start_offset != answer.log_start_offset;
        // After an error the partition is told again as soon as it is well.
        self.high_watermark = if failed { -1 } else { answer.high_watermark };
        self.log_start_offset = answer.log_start_offset;
        failed || moved || !answer.records.is_empty() || answer.preferred_read_replica >= 0
    }
}

/// One client's partitions at this broker, in the order in which they are read.
#[derive(Debug)]
struct Session {
    by_id: bool,
    /// That of the next request.
    epoch: i32,
    order: BTreeMap<u64, Cached>,
    places: HashMap<Key, u64>,
    next_place: u64,
}

impl Session {
    fn new(by_id: bool) -> Self {
        Self {
            by_id,
            epoch: following(NEW_SESSION),
            order: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
        }
    }

    fn put(&mut self, asked: Asked) {
        let key = asked.key();
        if let Some(cached) = self.places.get(&key).and_then(|p| self.order.get_mut(p)) {
            cached.asked = asked;
            return;
        }
        let cached = Cached {
            asked,
            high_watermark: -1,
            log_start_offset: -1,
        };
        self.push(key, cached);
    }

    fn push(&mut self, key: Key, cached: Cached) {
        self.places.insert(key, self.next_place);
        self.order.insert(self.next_place, cached);
        self.next_place += 1;
    }

    fn forget(&mut self, key: &Key) {
        if let Some(place) = self.places.remove(key) {
            self.order.remove(&place);
        }
    }

    /// Keeps the answer in mind: whether the client has to be told. A partition that gave records
    /// goes to the end, so that the size limit does not starve those behind it.
    fn answered(&mut self, key: Key, answer: &PartitionAnswer) -> bool {
        let Some(place) = self.places.get(&key).copied() else {
            return true;
        };
        let Some(cached) = self.order.get_mut(&place) else {
            return true;
        };
        let tell = cached.update(answer);
        if !answer.records.is_empty()
            && let Some(cached) = self.order.remove(&place)
        {
            self.push(key, cached);
        }
        tell
    }
}

/// The epoch after this one; 0 and −1 keep their meanings.
fn following(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// A session in the cache.
struct Slot {
    session: Arc<Mutex<Session>>,
    partitions: usize,
    created: Instant,
    used: Instant,
}

/// Which session a fetch belongs to.
enum Belonging {
    None,
    /// To one that is made with its answer.
    New {
        by_id: bool,
    },
    Incremental {
        id: i32,
        session: Arc<Mutex<Session>>,
        /// The session's next while no other request has come between.
        following: i32,
    },
}

/// A fetch under way: what to read, in this order.
pub struct SessionFetch {
    pub asked: Arc<[Asked]>,
    belonging: Belonging,
}

/// The sessions of one broker.
pub struct FetchSessions {
    slots: usize,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    by_id: HashMap<i32, Slot>,
    partitions: usize,
}

impl FetchSessions {
    /// `slots`: sessions kept at most.
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            cache: Mutex::default(),
        }
    }

    /// Sessions kept now.
    pub fn len(&self) -> usize {
        self.cache.lock().by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a request asks for, with what its session knows.
    ///
    /// # Errors
    /// The error of the whole answer: there is no such session, or the request is not its next.
    pub fn begin(
        &self,
        request: &FetchRequest,
        version: i16,
        now: Instant,
    ) -> Result<SessionFetch, ResponseError> {
        let by_id = version >= FIRST_WITH_IDS;
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch == NEW_SESSION || epoch == NO_SESSION {
            if id != 0 {
                self.cache.lock().remove(id);
            }
            let belonging = if epoch == NEW_SESSION {
                Belonging::New { by_id }
            } else {
                Belonging::None
            };
            return Ok(SessionFetch {
                asked: asked(request).collect(),
                belonging,
            });
        }
        let mut cache = self.cache.lock();
        let slot = cache
            .by_id
            .get_mut(&id)
            .ok_or(ResponseError::FetchSessionIdNotFound)?;
        let shared = slot.session.clone();
        let mut session = shared.lock();
        if session.epoch != epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        asked(request).for_each(|asked| session.put(asked));
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                session.forget(&Key::new(&topic.topic, topic.topic_id, *partition));
            }
        }
        let before = std::mem::replace(&mut slot.partitions, session.order.len());
        slot.used = now;
        cache.partitions = cache.partitions + session.order.len() - before;
        if cache.partitions > PARTITIONS_MAX {
            cache.remove(id);
            return Err(ResponseError::FetchSessionIdNotFound);
        }
        if session.order.is_empty() {
            cache.remove(id);
            return Ok(SessionFetch {
                asked: Arc::default(),
                belonging: Belonging::None,
            });
        }
        session.epoch = following(epoch);
        Ok(SessionFetch {
            asked: session.order.values().map(|c| c.asked.clone()).collect(),
            belonging: Belonging::Incremental {
                id,
                session: shared.clone(),
                following: session.epoch,
            },
        })
    }

    /// The answer to a fetch; `answers` belong to [`SessionFetch::asked`], one to each.
    pub fn finish(
        &self,
        fetch: SessionFetch,
        answers: Vec<PartitionAnswer>,
        now: Instant,
    ) -> FetchAnswer {
        let told = fetch.asked.iter().zip(answers);
        match fetch.belonging {
            Belonging::None => whole(0, told),
            Belonging::New { by_id } => {
                let mut session = Session::new(by_id);
                let told: Vec<_> = told.collect();
                for (asked, answer) in &told {
                    session.put((*asked).clone());
                    session.answered(asked.key(), answer);
                }
                let id = self.cache.lock().add(session, self.slots, now);
                whole(id, told.into_iter())
            }
            Belonging::Incremental {
                id,
                session,
                following,
            } => {
                let mut session = session.lock();
                if session.epoch != following {
                    return FetchAnswer {
                        error_code: ResponseError::InvalidFetchSessionEpoch.code(),
                        session_id: id,
                        ..FetchAnswer::default()
                    };
                }
                whole(
                    id,
                    told.filter(|(asked, answer)| session.answered(asked.key(), answer)),
                )
            }
        }
    }
}

impl Cache {
    fn remove(&mut self, id: i32) {
        if let Some(slot) = self.by_id.remove(&id) {
            self.partitions -= slot.partitions;
        }
    }

    /// The new session's id; 0 when there is no room for it.
    fn add(&mut self, session: Session, slots: usize, now: Instant) -> i32 {
        let partitions = session.order.len();
        let fits = self.partitions + partitions <= PARTITIONS_MAX;
        if !fits || slots == 0 || (self.by_id.len() >= slots && !self.evict(partitions, now)) {
            return 0;
        }
        // Nobody shall guess another's session.
        let id = loop {
            let id = (Uuid::new_v4().as_u128() as u32 >> 1) as i32;
            if id != 0 && !self.by_id.contains_key(&id) {
                break id;
            }
        };
        self.partitions += partitions;
        let slot = Slot {
            session: Arc::new(Mutex::new(session)),
            partitions,
            created: now,
            used: now,
        };
        self.by_id.insert(id, slot);
        id
    }

    /// Makes room for a session of so many partitions: one that is not used any more goes, or else
    /// the smallest that has had its time, if it is smaller than the new one.
    fn evict(&mut self, partitions: usize, now: Instant) -> bool {
        let is_old = |since: Instant| now.saturating_duration_since(since) > EVICTABLE_AFTER;
        let oldest = self.by_id.iter().min_by_key(|(_, slot)| slot.used);
        let victim = match oldest {
            Some((id, slot)) if is_old(slot.used) => Some(*id),
            _ => self
                .by_id
                .iter()
                .filter(|(_, slot)| is_old(slot.created) && slot.partitions < partitions)
                .min_by_key(|(_, slot)| slot.partitions)
                .map(|(id, _)| *id),
        };
        victim.map(|id| self.remove(id)).is_some()
    }
}

fn asked(request: &FetchRequest) -> impl Iterator<Item = Asked> {
    request.topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(|partition| Asked::new(&topic.topic, topic.topic_id, partition))
    })
}

/// Neighbours of one topic come under one entry.
fn whole<'a>(
    session_id: i32,
    told: impl Iterator<Item = (&'a Asked, PartitionAnswer)>,
) -> FetchAnswer {
    let mut topics: Vec<TopicAnswer> = Vec::new();
    for (asked, answer) in told {
        match topics.last_mut() {
            Some(last) if last.id == asked.topic_id && last.name == asked.topic => {
                last.partitions.push(answer);
            }
            _ => topics.push(TopicAnswer {
                name: asked.topic.clone(),
                id: asked.topic_id,
                partitions: vec![answer],
            }),
        }
    }
    FetchAnswer {
        session_id,
        topics,
        ..FetchAnswer::default()
    }
}

#[cfg(test)]
mod tests;

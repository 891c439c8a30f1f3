use super::*;
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchTopic, ForgottenTopic};

const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;

fn name(topic: &str) -> TopicName {
    TopicName(topic.to_owned().into())
}

fn request(id: i32, epoch: i32, partitions: &[(&str, i32, i64)]) -> FetchRequest {
    let topics = partitions
        .iter()
        .map(|(topic, partition, offset)| {
            FetchTopic::default()
                .with_topic(name(topic))
                .with_partitions(vec![
                    FetchPartition::default()
                        .with_partition(*partition)
                        .with_fetch_offset(*offset),
                ])
        })
        .collect();
    FetchRequest::default()
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(topics)
}

fn forgetting(mut request: FetchRequest, topic: &str, partitions: &[i32]) -> FetchRequest {
    request.forgotten_topics_data.push(
        ForgottenTopic::default()
            .with_topic(name(topic))
            .with_partitions(partitions.to_vec()),
    );
    request
}

/// An answer with a high watermark and, perhaps, records.
fn at(index: i32, high_watermark: i64, records: bool) -> PartitionAnswer {
    PartitionAnswer {
        index,
        high_watermark,
        log_start_offset: 0,
        records: if records {
            vec![Bytes::from_static(b"batch").into()]
        } else {
            Vec::new()
        },
        ..PartitionAnswer::default()
    }
}

struct Client {
    sessions: FetchSessions,
    now: Instant,
}

impl Client {
    fn new(slots: usize) -> Self {
        Self {
            sessions: FetchSessions::new(slots),
            now: Instant::now(),
        }
    }

    fn fetch(
        &self,
        request: &FetchRequest,
        answer: impl Fn(&Asked) -> PartitionAnswer,
    ) -> Result<FetchAnswer, ResponseError> {
        let fetch = self.sessions.begin(request, BY_NAME, self.now)?;
        let answers = fetch.asked.iter().map(answer).collect();
        Ok(self.sessions.finish(fetch, answers, self.now))
    }

    /// A session of these partitions of topic `t`, all empty.
    fn create(&self, partitions: i32) -> i32 {
        let wanted: Vec<_> = (0..partitions).map(|p| ("t", p, 0)).collect();
        let answer = self.fetch(&request(0, 0, &wanted), |a| at(a.partition, 0, false));
        answer.expect("a full fetch").session_id
    }
}

fn told(answer: &FetchAnswer) -> Vec<(String, i32)> {
    let topics = answer.topics.iter();
    topics
        .flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p.index)))
        .collect()
}

fn of_t(partitions: &[i32]) -> Vec<(String, i32)> {
    partitions.iter().map(|p| ("t".to_owned(), *p)).collect()
}

#[test]
fn only_what_changed_is_told() {
    let client = Client::new(10);
    let full = request(0, 0, &[("t", 0, 5), ("t", 1, 7), ("u", 0, 9)]);
    let answer = client
        .fetch(&full, |a| at(a.partition, 10, false))
        .expect("full");
    assert_eq!(told(&answer).len(), 3, "a new session is told all");
    let id = answer.session_id;
    assert!(id > 0);

    let same = client
        .fetch(&request(id, 1, &[]), |a| at(a.partition, 10, false))
        .expect("second");
    assert_eq!(told(&same), []);
    assert_eq!(same.session_id, id);

    let moved = client
        .fetch(&request(id, 2, &[]), |a| {
            at(a.partition, 10 + i64::from(a.partition), false)
        })
        .expect("third");
    assert_eq!(told(&moved), of_t(&[1]), "its high watermark moved");

    let start = |a: &Asked| PartitionAnswer {
        log_start_offset: i64::from(a.topic.as_str() == "u"),
        ..at(a.partition, 10 + i64::from(a.partition), false)
    };
    let started = client.fetch(&request(id, 3, &[]), start).expect("fourth");
    assert_eq!(told(&started), [("u".to_owned(), 0)], "its log start moved");

    let redirect = |a: &Asked| PartitionAnswer {
        preferred_read_replica: if a.topic.as_str() == "u" { 2 } else { -1 },
        ..start(a)
    };
    let redirected = client.fetch(&request(id, 4, &[]), redirect).expect("fifth");
    assert_eq!(told(&redirected), [("u".to_owned(), 0)]);
}

#[test]
fn an_error_is_told_each_time_and_its_end_too() {
    let client = Client::new(10);
    let id = client.create(2);
    let fail = |a: &Asked| PartitionAnswer {
        error_code: if a.partition == 0 { 6 } else { 0 },
        ..at(a.partition, 0, false)
    };
    for epoch in 1..4 {
        let answer = client.fetch(&request(id, epoch, &[]), fail).expect("fetch");
        assert_eq!(told(&answer), of_t(&[0]));
    }
    for (epoch, expected) in [(4, of_t(&[0])), (5, of_t(&[]))] {
        let answer = client
            .fetch(&request(id, epoch, &[]), |a| at(a.partition, 0, false))
            .expect("fetch");
        assert_eq!(told(&answer), expected);
    }
    let parted = |a: &Asked| PartitionAnswer {
        diverging: (a.partition == 1).then_some((3, 4)),
        ..at(a.partition, 0, false)
    };
    for epoch in 6..8 {
        let answer = client
            .fetch(&request(id, epoch, &[]), parted)
            .expect("fetch");
        assert_eq!(told(&answer), of_t(&[1]));
    }
}

#[test]
fn partitions_that_gave_records_go_to_the_end() {
    let client = Client::new(10);
    let id = client.create(4);
    let order = |epoch: i32, with_records: &[i32]| {
        let fetch = client
            .sessions
            .begin(&request(id, epoch, &[]), BY_NAME, client.now)
            .expect("begins");
        let order: Vec<i32> = fetch.asked.iter().map(|a| a.partition).collect();
        let answers = order
            .iter()
            .map(|p| at(*p, 0, with_records.contains(p)))
            .collect();
        client.sessions.finish(fetch, answers, client.now);
        order
    };
    assert_eq!(order(1, &[0, 2]), [0, 1, 2, 3]);
    assert_eq!(order(2, &[1]), [1, 3, 0, 2]);
    assert_eq!(order(3, &[]), [3, 0, 2, 1]);
}

#[test]
fn partitions_are_added_changed_and_forgotten() {
    let client = Client::new(10);
    let id = client.create(2);
    let change = request(id, 1, &[("t", 1, 44), ("t", 2, 3)]);
    let change = forgetting(change, "t", &[0, 17]);
    let fetch = client
        .sessions
        .begin(&change, BY_NAME, client.now)
        .expect("begins");
    let asked: Vec<_> = fetch
        .asked
        .iter()
        .map(|a| (a.partition, a.fetch_offset))
        .collect();
    assert_eq!(asked, [(1, 44), (2, 3)]);
    let answers = vec![at(1, 0, false), at(2, 0, false)];
    let answer = client.sessions.finish(fetch, answers, client.now);
    assert_eq!(told(&answer), of_t(&[2]), "the new one is told");

    let all_gone = forgetting(request(id, 2, &[]), "t", &[1, 2]);
    let answer = client
        .fetch(&all_gone, |_| unreachable!("nothing is left"))
        .expect("an empty answer");
    assert_eq!((answer.session_id, told(&answer)), (0, Vec::new()));
    assert!(client.sessions.is_empty());
}

#[test]
fn a_request_out_of_turn_is_refused() {
    let client = Client::new(10);
    let id = client.create(1);
    let begin = |request: &FetchRequest, version| {
        let begun = client.sessions.begin(request, version, client.now);
        begun.map(|_| ()).expect_err("refused")
    };
    for unknown in [0, id.wrapping_add(1).max(1), -4] {
        let error = begin(&request(unknown, 1, &[]), BY_NAME);
        assert_eq!(error, ResponseError::FetchSessionIdNotFound);
    }
    for epoch in [2, 3, i32::MAX, -2, i32::MIN] {
        let error = begin(&request(id, epoch, &[]), BY_NAME);
        assert_eq!(error, ResponseError::InvalidFetchSessionEpoch);
    }
    let error = begin(&request(id, 1, &[]), BY_ID);
    assert_eq!(error, ResponseError::FetchSessionTopicIdError);

    // Two requests at once: the first one's answer comes too late.
    let first = client
        .sessions
        .begin(&request(id, 1, &[]), BY_NAME, client.now)
        .expect("in turn");
    client
        .fetch(&request(id, 2, &[]), |a| at(a.partition, 0, false))
        .expect("in turn");
    let late = client
        .sessions
        .finish(first, vec![at(0, 0, false)], client.now);
    assert_eq!(
        late.error_code,
        ResponseError::InvalidFetchSessionEpoch.code()
    );
    client
        .fetch(&request(id, 3, &[]), |a| at(a.partition, 0, false))
        .expect("the session goes on");
}

#[test]
fn sessions_end_and_begin_anew() {
    let client = Client::new(10);
    let id = client.create(1);
    let last = client
        .fetch(&request(id, -1, &[("t", 0, 0)]), |a| {
            at(a.partition, 0, false)
        })
        .expect("a last fetch");
    assert_eq!((last.session_id, told(&last)), (0, of_t(&[0])));
    assert!(client.sessions.is_empty());

    let id = client.create(1);
    let again = client
        .fetch(&request(id, 0, &[("t", 0, 0)]), |a| {
            at(a.partition, 0, false)
        })
        .expect("a full fetch in place of a session");
    assert!(again.session_id > 0 && again.session_id != id);
    assert_eq!(client.sessions.len(), 1);
}

#[test]
fn epochs_wrap_to_one() {
    assert_eq!(following(0), 1);
    assert_eq!(following(i32::MAX), 1);
}

#[test]
fn a_full_cache_gives_way_by_age_and_size() {
    let mut client = Client::new(2);
    let small = client.create(1);
    let large = client.create(5);
    assert_eq!(client.create(9), 0, "both are young");

    client.now += EVICTABLE_AFTER + Duration::from_secs(1);
    for id in [small, large] {
        client
            .fetch(&request(id, 1, &[]), |a| at(a.partition, 0, false))
            .expect("used");
    }
    assert_eq!(client.create(1), 0, "none is smaller");
    let larger = client.create(3);
    assert!(larger > 0, "the session of one partition gives way");
    let gone = client.fetch(&request(small, 2, &[]), |a| at(a.partition, 0, false));
    assert_eq!(
        gone.map(|_| ()).expect_err("evicted"),
        ResponseError::FetchSessionIdNotFound
    );

    client.now += EVICTABLE_AFTER + Duration::from_secs(1);
    let newest = client.create(1);
    assert!(newest > 0, "any unused session gives way");
    assert_eq!(client.sessions.len(), 2);
    assert_eq!(FetchSessions::new(0).cache.lock().by_id.len(), 0);
    assert_eq!(Client::new(0).create(1), 0, "no slots, no sessions");
}

//! Request and reply over two topics: the caller says where to answer and how to recognise the
//! answer; the server copies that from the request.
//!
//! `cargo run -p tidelog-client --example request_reply -- localhost:9092`

use std::error::Error;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, ConsumerRecord, GroupConfig, Producer, ProducerConfig,
    Record, StartPosition,
};

fn header(record: &ConsumerRecord, key: &str) -> Option<String> {
    let header = record.headers.iter().find(|h| h.key == key)?;
    String::from_utf8(header.value.as_deref()?.to_vec()).ok()
}

/// Answers `count` requests with their text in capitals.
async fn serve(client: ClientConfig, requests: &str, count: usize) -> tidelog_client::Result<()> {
    let config = ConsumerConfig::group(GroupConfig::new(format!("{requests}-servers")));
    let mut consumer = Consumer::new(client.clone(), config).await?;
    consumer.subscribe([requests]).await?;
    let producer = Producer::new(client, ProducerConfig::default()).await?;
    for _ in 0..count {
        let request = consumer.next_record().await?;
        let (Some(to), Some(id)) = (
            header(&request, "reply-to"),
            header(&request, "correlation-id"),
        ) else {
            continue;
        };
        let text =
            String::from_utf8_lossy(request.value.as_deref().unwrap_or_default()).to_uppercase();
        let reply = Record::new(to, text).with_header("correlation-id", id);
        producer.send(reply).await?.await?;
    }
    consumer.close().await
}

/// Asks for each of the words, and returns the answers in their order.
async fn ask(
    client: ClientConfig,
    requests: &str,
    replies: &str,
    words: &[&str],
) -> tidelog_client::Result<Vec<String>> {
    // Its own place to be answered at: everything after what is there now.
    let mut consumer = Consumer::new(client.clone(), ConsumerConfig::default()).await?;
    let place = (replies.to_owned(), 0, StartPosition::Latest);
    let end = consumer.offsets([place]).await?[0].2;
    consumer
        .assign([(replies, 0, StartPosition::Offset(end))])
        .await?;
    let producer = Producer::new(client, ProducerConfig::default()).await?;
    for (id, word) in words.iter().enumerate() {
        let request = Record::new(requests, word.to_string())
            .with_header("reply-to", replies.to_owned())
            .with_header("correlation-id", id.to_string());
        producer.send(request).await?;
    }
    producer.flush().await?;
    let mut answers = vec![String::new(); words.len()];
    let mut open = words.len();
    while open > 0 {
        let reply = consumer.next_record().await?;
        let id = header(&reply, "correlation-id").and_then(|id| id.parse::<usize>().ok());
        if let Some(answer) = id.and_then(|id| answers.get_mut(id)) {
            *answer = String::from_utf8_lossy(&reply.value.unwrap_or_default()).into_owned();
            open -= 1;
        }
    }
    Ok(answers)
}

/// Both sides; the topics exist.
pub async fn run(
    bootstrap: &str,
    requests: &str,
    replies: &str,
) -> Result<Vec<String>, Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let words = ["tide", "log", "ebb"];
    let (served, answers) = futures_util::join!(
        serve(client.clone(), requests, words.len()),
        ask(client.clone(), requests, replies, &words),
    );
    served?;
    Ok(answers?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    println!("{:?}", run(&bootstrap, "requests", "replies").await?);
    Ok(())
}

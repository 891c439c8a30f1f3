//! `tidelog topic move` and `elect`, `tidelog broker unregister`: an operator takes a broker in and out.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelog_client::{Admin, ClientConfig, TopicPartition};
use tidelog_tests::client_suite::ground::{create, write};
use tidelog_tests::{Cluster, wait};

use super::RECOVERY_LIMIT;
use super::operator_commands::{json, refused, run};
use super::reassignment::start;

/// A partition as `topic describe` shows it.
fn described(bootstrap: &str, partition: usize) -> Result<Value> {
    let topic = json(bootstrap, &["topic", "describe", "orders"])?;
    let topic = topic.first().context("a topic")?;
    Ok(topic["partitions"][partition].clone())
}

fn moving(bootstrap: &str) -> Result<Value> {
    let status = json(bootstrap, &["cluster", "status"])?;
    Ok(status.first().context("a status")?["partitions_moving"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_moved_by_commands_and_a_broker_is_unregistered() -> Result<()> {
    let mut cluster = start().await?;
    cluster.join(4).await?;
    let at = cluster.bootstrap();
    create(&at, "orders", 4).await?;
    let all = ["topic", "move", "orders", "--to"];
    let begin = [&all[..], &["1,2,3", "--wait", "60"]].concat();
    let moved = json(&at, &begin)?;
    ensure!(
        moved.len() == 4 && moved.iter().all(|m| m["done"] == true),
        "{moved:?}"
    );
    write(&at, "orders", 4, 0..100).await?;

    // Nothing comes of a move to a broker that is away, until it is cancelled.
    cluster.broker_mut(4).kill()?;
    let first = ["topic", "move", "orders:0", "--to", "4,2,3"];
    let begun = json(&at, &first)?;
    ensure!(
        begun.len() == 1
            && begun[0]["from"] == json!([1, 2, 3])
            && begun[0]["to"] == json!([4, 2, 3])
            && begun[0]["done"] == false,
        "{begun:?}"
    );
    let late = refused(&at, &[&first[..], &["--wait", "1"]].concat())?;
    ensure!(late.contains("1 partitions still move"), "{late}");
    ensure!(moving(&at)? == json!(["orders-0"]), "{}", moving(&at)?);
    ensure!(described(&at, 0)?["moving_to"] == json!([4, 2, 3]));
    ensure!(described(&at, 1)?["moving_to"] == Value::Null);
    let text = run(&at, &["topic", "describe", "orders"])?;
    ensure!(text.contains("MOVING  FROM   TO"), "{text}");
    let cancel = ["topic", "move", "orders", "--cancel"];
    let cancelled = json(&at, &[&cancel[..], &["--wait", "60"]].concat())?;
    ensure!(
        cancelled.len() == 1
            && cancelled[0]["cancelled"] == true
            && cancelled[0]["to"] == json!([1, 2, 3])
            && cancelled[0]["done"] == true,
        "{cancelled:?}"
    );
    ensure!(described(&at, 0)?["replicas"] == json!([1, 2, 3]));
    let nothing = refused(&at, &cancel)?;
    ensure!(nothing.contains("nothing moves there"), "{nothing}");

    // What is not meant is refused.
    let fewer = refused(&at, &[&all[..], &["2"]].concat())?;
    ensure!(fewer.contains("--replicas 1 changes that"), "{fewer}");
    let unknown = refused(&at, &[&all[..], &["1,2,9"]].concat())?;
    ensure!(unknown.contains("InvalidReplicaAssignment"), "{unknown}");
    let beyond = refused(&at, &["topic", "move", "orders:7", "--to", "1,2,3"])?;
    ensure!(beyond.contains("has no partition 7"), "{beyond}");

    cluster.restart(4).await?;
    let spread = [&all[..], &["1,2,3,4", "--replicas", "2", "--wait", "60"]].concat();
    json(&at, &spread)?;
    for (partition, expected) in [[1, 2], [2, 3], [3, 4], [4, 1]].iter().enumerate() {
        let found = described(&at, partition)?;
        ensure!(found["replicas"] == json!(expected), "{found}");
    }
    ensure!(moving(&at)? == json!([]));
    let elected = "every preferred replica leads after `topic elect`";
    wait::until(elected, RECOVERY_LIMIT, async || {
        let outcomes = json(&at, &["topic", "elect", "orders"])?;
        ensure!(outcomes.len() == 4, "{outcomes:?}");
        let right = outcomes.iter().all(|o| o["leads_already"] == true);
        Ok(right.then_some(()))
    })
    .await?;
    for (partition, leader) in [1, 2, 3, 4].iter().enumerate() {
        ensure!(described(&at, partition)?["leader"] == json!(leader));
    }

    // A broker goes once nothing is left on it.
    let in_use = refused(&at, &["broker", "unregister", "4"])?;
    ensure!(in_use.contains("move them first"), "{in_use}");
    let away = [&all[..], &["1,2,3", "--replicas", "2", "--wait", "60"]].concat();
    run(&at, &away)?;
    let unregister = "broker 4 unregistered";
    wait::until(unregister, RECOVERY_LIMIT, async || {
        Ok(run(&at, &["broker", "unregister", "4"]).ok())
    })
    .await?;
    let brokers = json(&at, &["broker", "list"])?;
    let ids: Vec<_> = brokers.iter().map(|b| b["broker"].clone()).collect();
    ensure!(ids == [1, 2, 3], "{brokers:?}");
    let again = refused(&at, &["broker", "unregister", "4"])?;
    ensure!(again.contains("tidelog broker list"), "{again}");
    let records = json(&at, &["consume", "orders"])?;
    ensure!(records.len() == 100, "{}", records.len());
    Ok(())
}

/// Found by `tidelog-jepsen run --seed 11 --faults move,...`: a broker that a coordinator's partition came back to
/// went on with the replica that it had removed, and answered `NOT_COORDINATOR` for ever.
#[tokio::test(flavor = "multi_thread")]
async fn coordinators_work_where_their_partitions_come_back_to() -> Result<()> {
    let cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    create(&at, "orders", 1).await?;
    write(&at, "orders", 1, 0..10).await?;
    let admin = Admin::new(ClientConfig::new(&at)).await?;
    let place = TopicPartition::new("orders", 0);
    for (round, broker) in ["1", "2", "1", "2", "3"].into_iter().enumerate() {
        let offset = round as i64 + 1;
        admin
            .alter_group_offsets("billing", &[(place.clone(), offset)].into())
            .await
            .with_context(|| format!("commit in round {round}"))?;
        let to = ["topic", "move", "__consumer_offsets", "--to", broker];
        let to = [&to[..], &["--replicas", "1", "--wait", "60"]].concat();
        // A broker may still be removing the replicas that it had before.
        wait::until("the move", RECOVERY_LIMIT, async || match json(&at, &to) {
            Err(error) if error.to_string().contains("still removing") => Ok(None),
            moved => moved.map(Some),
        })
        .await?;
        let committed = admin.group_offsets("billing").await?;
        let told: Vec<i64> = committed.values().map(|c| c.offset).collect();
        ensure!(told == [offset], "round {round}: {committed:?}");
    }
    Ok(())
}

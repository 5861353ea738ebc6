//! How long a Job takes beside its command. Run by hand:
//! `cargo nextest run -p mizzen-node --run-ignored only --no-capture speed`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, asserts nothing"]
async fn create_to_complete() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let mut took = Vec::new();
    for n in 0..100 {
        let name = format!("j{n}");
        let from = Instant::now();
        cluster.job(&name, "exit 0", json!({})).await;
        cluster.ended(&name).await;
        took.push(from.elapsed());
    }
    took.sort();
    let bare = bare_spawns();
    println!(
        "one at a time: median {:?}, p95 {:?}; a bare `sh -c 'exit 0'` {bare:?}",
        took[50], took[95]
    );

    let from = Instant::now();
    for n in 0..300 {
        cluster.job(&format!("k{n}"), "exit 0", json!({})).await;
    }
    let created = from.elapsed();
    for n in 0..300 {
        cluster.ended(&format!("k{n}")).await;
    }
    println!("300 at once: created in {created:?}, all complete after {:?}", from.elapsed());
}

fn bare_spawns() -> Duration {
    let mut took: Vec<_> = (0..100)
        .map(|_| {
            let from = Instant::now();
            std::process::Command::new("sh").args(["-c", "exit 0"]).status().unwrap();
            from.elapsed()
        })
        .collect();
    took.sort();
    took[50]
}

//! Where runs take place.

use std::task::{Context, Waker};

use super::*;

const THREAD: &str = "m/0";

/// Runs the model until it is known to be brief: until a run has not been on its own thread.
async fn until_brief(f: &Fixture) {
    let seen = async {
        while f.loader.ran_on("m").iter().all(|thread| thread == THREAD) {
            f.values("m", &[1.0; 4]).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the fake engine is brief");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_run_takes_place_where_its_request_came_in() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Double).unwrap()).await;
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    assert_eq!(f.loader.ran_on("m"), [THREAD], "how long it takes is not known yet");
    until_brief(&f).await;
    let last = f.loader.ran_on("m").pop().unwrap();
    assert!(last.starts_with("tokio"), "{last}");
}

#[tokio::test]
async fn requests_that_are_ready_share_the_run_after() {
    let batching = FakeModel::new(Kind::Double).config("max_batch_size: 64 dynamic_batching {}");
    let f = Fixture::new(|dir| batching.write(dir, "m", 1).unwrap()).await;
    until_brief(&f).await;
    let together = async {
        loop {
            let before = f.loader.batches("m").len();
            let asked: Vec<_> =
                (0..10u16).map(|n| spawn(&f.host, request("m", &[f32::from(n); 4]))).collect();
            for (n, task) in (0..10u16).zip(asked) {
                let values = fp32_values(&task.await.unwrap().unwrap().outputs[0].tensor);
                assert_eq!(values, [2.0 * f32::from(n); 4]);
            }
            // Unless the first was not brief this time, and its thread was quick.
            if f.loader.batches("m")[before..] == [1, 9] {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), together).await.expect("they share it");
}

#[tokio::test]
async fn what_a_runtime_leaves_when_it_ends_is_run_by_the_thread() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Double).unwrap()).await;
    until_brief(&f).await;
    let before = f.loader.ran_on("m").len();
    let mut answer = Box::pin(f.host.infer(request("m", &[3.0; 4])));
    let other = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().build().expect("a small runtime")
    })
    .join()
    .unwrap();
    {
        let _here = other.enter();
        // Its turn is now among the tasks of a runtime that runs none.
        assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    other.shutdown_background();
    assert_eq!(fp32_values(&answer.await.unwrap().outputs[0].tensor), [6.0; 4]);
    assert_eq!(f.loader.ran_on("m")[before..], [THREAD]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_wants_a_thread_of_its_own_gets_it() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Gated).unwrap()).await;
    f.loader.gate().open();
    for _ in 0..50 {
        f.values("m", &[1.0; 4]).await.unwrap();
    }
    assert!(f.loader.ran_on("m").iter().all(|thread| thread == THREAD));
}

//! What a worker logs when another live process uses its worker id. A program of its own, because it captures the log.

use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, setup};
use test_support::LogCapture;

#[tokio::test(start_paused = true)]
async fn an_error_names_both_processes_of_one_worker_id() {
    let log = LogCapture::install();
    let (stream, store, journal) = setup(2);
    let start = |seed| Member::start(member("same", &stream, &store, &journal).seed(seed));
    let first = start(SEED);
    first.wait_until_holding(2).await;
    let _second = start(SEED + 1);
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    let errors: Vec<String> = log
        .take()
        .into_iter()
        .filter(|event| event.level.as_str() == "ERROR")
        .map(|event| event.text)
        .collect();
    let [error] = errors.as_slice() else { panic!("logged once: {errors:?}") };
    assert!(error.contains("another live process uses the worker id"), "{error}");
    let process = format!("pid={} ", std::process::id());
    for name in ["this_process=\"host=", "other_process=\"host="] {
        let text = error.split_once(name).unwrap().1.split_once('"').unwrap().0;
        assert!(
            text.contains(&process) && text.contains("started=") && text.ends_with("worker=same"),
            "{text}"
        );
    }
    first.stop().await;
    tokio::time::sleep(FAILOVER_TIME + Duration::from_secs(5)).await;
    assert!(log.take_warnings().is_empty());
}

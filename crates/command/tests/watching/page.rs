//! The page in a real browser, where Chromium is installed.

use std::path::PathBuf;
use std::process::Stdio;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::process::Command;
use tokio::time::timeout;

use crate::bench::{APPLICATION, PATIENCE, TestBed, lease};
use crate::serve::Server;

/// The names under which distributions install it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The browser; `None`: it is not installed.
fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&folders)
        .flat_map(|folder| BROWSERS.map(|name| folder.join(name)))
        .find(|place| place.is_file());
    if places.is_none() {
        println!("left out: Chromium is not installed (Debian: the package chromium)");
    }
    places
}

/// The document after the page has run for a while of its own time, and a picture of it in the folder for temporary files.
async fn document(browser: &PathBuf, address: &str, rest: &str, size: &str) -> String {
    let profile = std::env::temp_dir().join(format!("page-{}-{size}", std::process::id()));
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--virtual-time-budget=4000", "--timeout=20000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("--window-size={size}"));
    command.arg(format!("http://{address}/{rest}"));
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the browser ends in time").unwrap();
    // A profile that remains in the folder for temporary files does no harm.
    let _ = std::fs::remove_dir_all(profile);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_fleet_and_the_address_its_state() {
    let Some(browser) = browser() else { return };
    let bed = TestBed::start(4).await;
    for number in 0..4 {
        bed.put_lease(lease(number, Some("worker-1"))).await;
    }
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let shown = document(&browser, &server.address, "", "1200,900").await;
    assert!(shown.contains(&format!("<h1 id=\"application\">{APPLICATION}</h1>")), "{shown}");
    assert_eq!(shown.matches("<tr data-shard=").count(), 4, "{shown}");
    assert!(shown.contains("data-look="), "{shown}");
    let address = "#shard=shardId-000000000002&view=shard&theme=dark&filter=worker-1";
    let shown = document(&browser, &server.address, address, "500,900").await;
    assert!(shown.contains("<span id=\"shard-title\">shardId-000000000002</span>"), "{shown}");
    assert!(shown.contains("data-theme=\"dark\"") && shown.contains("aria-current=\"true\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_the_table_are_text_on_the_page() {
    let Some(browser) = browser() else { return };
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("<img src=x onerror=alert(1)>"))).await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let shown = document(&browser, &server.address, "", "800,600").await;
    assert!(shown.contains("&lt;img src=x") && !shown.contains("<img"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_2000_shards() {
    let Some(browser) = browser() else { return };
    let bed = TestBed::start(1).await;
    let part = u128::MAX / 2_000;
    let row = |shard: u64| {
        let text = |text: String| AttributeValue::S(text);
        let number = |number: u64| AttributeValue::N(number.to_string());
        vec![
            ("leaseKey", text(format!("shardId-{shard:012}"))),
            ("leaseOwner", text(format!("worker-{}", shard % 20))),
            ("leaseCounter", number(1_000)),
            ("ownerSwitchesSinceCheckpoint", number(0)),
            ("checkpoint", text("TRIM_HORIZON".to_owned())),
            ("startingHashKey", text((u128::from(shard) * part).to_string())),
            ("endingHashKey", text((u128::from(shard + 1) * part - 1).to_string())),
        ]
    };
    bed.put_rows(APPLICATION, (0..2_000).map(row).collect()).await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let shown = document(&browser, &server.address, "", "1400,900").await;
    assert!(shown.contains("the first 200 of 2000"), "{}", shown.len());
    assert_eq!(shown.matches("<tr data-shard=").count(), 200);
}

//! Changes through the page: with the words and checks of the commands, and from no other page.

use lease_store::{Lease, LeaseStore as _, Position};
use serde_json::Value;
use tokio::time::timeout;

use crate::bench::{APPLICATION, PATIENCE, STREAM, TestBed, lease, shard};
use crate::browser::Browser;
use crate::http::{Answer, send};
use crate::serve::Server;

const PAUSE: &str = r#"{"action":"pause","all":true,"for":"30m","by":"alice","execute":true}"#;

async fn bed() -> TestBed {
    let bed = TestBed::start(2).await;
    bed.put_records(&["a", "b", "c", "d"]).await;
    bed.put_lease(lease(0, None)).await;
    bed.put_lease(lease(1, None)).await;
    bed
}

async fn row(bed: &TestBed, number: u64) -> Lease {
    bed.store().get(&shard(number)).await.unwrap().unwrap()
}

/// Sends a change as the page does, with other headers in place of its own.
async fn change(server: &Server, others: &[(&str, &str)], body: &str) -> Answer {
    let origin = format!("http://{}", server.address);
    let own = [
        ("Host", server.address.as_str()),
        ("Content-Type", "application/json"),
        ("X-Fleet-Change", "1"),
        ("Origin", origin.as_str()),
    ];
    let is_other = |name: &str| others.iter().any(|(other, _)| *other == name);
    let mut headers: Vec<(&str, &str)> = own.into_iter().filter(|(name, _)| !is_other(name)).collect();
    headers.extend(others.iter().filter(|(_, value)| !value.is_empty()));
    send("POST", &server.address, "/api/changes", &headers, body).await
}

fn lines(answer: &Answer) -> Vec<String> {
    let answer: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    answer["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_have_the_words_and_effects_of_the_commands() {
    let bed = bed().await;
    let server = Server::start_with(&bed, &["--allow-changes"]).await;
    let may = server.get("/api/changes").await;
    assert_eq!(may.body, r#"{"isAllowed":true,"needsToken":false}"#);
    // kafbat/kafka-ui #409: each kind of a reset is made as if it was the one to the newest records.
    let shown = change(&server, &[], r#"{"action":"reset","all":true,"to":"latest"}"#).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let of_command = bed.run(&["reset", APPLICATION, "--stream", STREAM, "--to", "latest"]).await;
    let last = of_command.output.lines().count() - 1;
    let of_command: Vec<&str> = of_command.output.lines().take(last).collect();
    assert_eq!(lines(&shown)[..last], of_command, "the command says the same");
    assert_eq!(row(&bed, 0).await, lease(0, None), "nothing was changed");
    let one = r#"{"action":"reset","shards":["shardId-000000000001"],"to":"latest","execute":true}"#;
    let done = change(&server, &[], one).await;
    assert!(done.body.contains("\"isDone\":true") && done.body.contains("1 done"), "{done:?}");
    assert_eq!(row(&bed, 0).await.checkpoint, Position::TrimHorizon);
    assert_eq!(row(&bed, 1).await.checkpoint, Position::Latest);
    let back = r#"{"action":"reset","all":true,"to":"trim-horizon","execute":true}"#;
    assert!(change(&server, &[], back).await.body.contains("1 done"));
    assert_eq!(row(&bed, 1).await.checkpoint, Position::TrimHorizon);
    // A pause, and its end.
    assert!(change(&server, &[], PAUSE).await.body.contains("2 done"));
    assert_eq!(row(&bed, 0).await.pause().unwrap().by, "alice");
    assert!(
        change(&server, &[], r#"{"action":"resume","all":true,"execute":true}"#)
            .await
            .body
            .contains("2 done")
    );
    assert!(row(&bed, 0).await.pause_text.is_none());
    // What the command refuses is refused.
    let unknown = r#"{"action":"release","shards":["shardId-000000000009"],"execute":true}"#;
    let refused = change(&server, &[], unknown).await;
    assert!(
        refused.body.contains("\"isRefused\":true") && refused.body.contains("shardId-000000000009"),
        "{refused:?}"
    );
    for (body, part) in [
        ("no json", "not valid"),
        (r#"{"action":"resume","execute":true}"#, "name shards"),
        (r#"{"action":"reset","all":true,"to":"/etc/hostname","execute":true}"#, "is no trim-horizon"),
    ] {
        let answer = change(&server, &[], body).await;
        assert!(answer.status == 400 && answer.body.contains(part), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_pages_change_nothing() {
    let bed = bed().await;
    let open = Server::start_with(&bed, &["--allow-changes"]).await;
    for others in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Origin", ""), ("Sec-Fetch-Site", "cross-site")],
        &[("X-Fleet-Change", "")],
        &[("Content-Type", "text/plain")],
        &[("Host", "evil.example"), ("Origin", "http://evil.example")],
    ] {
        let answer = change(&open, others, PAUSE).await;
        assert_eq!(answer.status, 403, "{others:?}: {answer:?}");
    }
    // A browser asks for leave first, and gets none.
    let asks = [
        ("Host", open.address.as_str()),
        ("Origin", "http://evil.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let asked = send("OPTIONS", &open.address, "/api/changes", &asks, "").await;
    assert!(!asked.head.to_lowercase().contains("access-control-allow"), "{asked:?}");
    let too_large = change(&open, &[], &" ".repeat(100_000)).await;
    assert_eq!(too_large.status, 413, "{too_large:?}");
    let closed = Server::start(&bed).await;
    let answer = change(&closed, &[], PAUSE).await;
    assert!(answer.status == 403 && answer.body.contains("--allow-changes"), "{answer:?}");
    assert_eq!(closed.get("/api/changes").await.body, r#"{"isAllowed":false,"needsToken":false}"#);
    let token = "0123456789abcdef";
    let guarded = Server::start_with(&bed, &["--allow-changes", "--token", token]).await;
    for authorization in ["", "Bearer 0123456789abcdeg", "Basic 0123456789abcdef"] {
        let answer = change(&guarded, &[("Authorization", authorization)], PAUSE).await;
        assert!(answer.status == 403 && answer.body.contains("token"), "{authorization}: {answer:?}");
    }
    assert!(row(&bed, 0).await.pause_text.is_none() && row(&bed, 1).await.pause_text.is_none());
    let allowed = change(&guarded, &[("Authorization", "Bearer 0123456789abcdef")], PAUSE).await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert!(row(&bed, 0).await.pause_text.is_some());
    let serve = ["serve", APPLICATION, "--stream", STREAM, "--listen", "0.0.0.0:0", "--allow-changes"];
    let everywhere = bed.run(&serve).await;
    assert!(everywhere.code == 2 && everywhere.errors.contains("KINESIS_STREAMING_TOKEN"), "{everywhere:?}");
    let short = bed.run(&[&serve[..], &["--token", "short"]].concat()).await;
    assert!(short.code == 2 && short.errors.contains("at least 16"), "{short:?}");
}

/// Two people have the page open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_is_made_at_a_time() {
    let bed = TestBed::start(1).await;
    // Whether this worker is alive shows only over time.
    bed.put_lease(lease(0, Some("dead"))).await;
    let server = Server::start_with(&bed, &["--allow-changes"]).await;
    let slow = r#"{"action":"release","all":true}"#;
    // Whichever comes second is answered first, since the other one looks for a while.
    let answer = timeout(PATIENCE, async {
        tokio::select! {
            answer = change(&server, &[], slow) => answer,
            answer = change(&server, &[], slow) => answer,
        }
    });
    let answer = answer.await.expect("in time");
    assert!(answer.status == 409 && answer.body.contains("another change"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_pauses_a_shard_on_the_page() {
    let bed = bed().await;
    let server = Server::start_with(&bed, &["--allow-changes"]).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let address = format!("http://{}/#shard=shardId-000000000001", server.address);
    let Some(mut browser) = Browser::open("change", &address, 1000, 900).await else { return };
    browser.until("document.documentElement?.dataset.look !== undefined").await;
    browser.until("document.documentElement.dataset.changes === 'true'").await;
    browser.press("c").await;
    browser.until("document.querySelector('#change-dialog').open").await;
    assert_eq!(browser.value("document.querySelector('#change-scope').value").await, "one");
    assert_eq!(browser.value("document.querySelector('#change-execute').disabled").await, true);
    browser.click("#change-plan").await;
    let says = |text: &str| format!("document.querySelector('#change-lines').textContent.includes({text:?})");
    browser.until(&says("1 row changes")).await;
    assert!(row(&bed, 1).await.pause_text.is_none(), "it is only shown");
    browser.until("!document.querySelector('#change-execute').disabled").await;
    assert!(browser.picture("change.png").await > 10_000);
    browser.click("#change-execute").await;
    browser.until(&says("1 done")).await;
    assert!(row(&bed, 1).await.pause_text.is_some() && row(&bed, 0).await.pause_text.is_none());
    // A plan is not carried out in another form than it was shown.
    assert_eq!(browser.value("document.querySelector('#change-execute').disabled").await, true);
    browser.value("(() => { const what = document.querySelector('#change-action'); what.value = 'reset'; what.dispatchEvent(new Event('input')); })()").await;
    browser.value("document.querySelector('#change-to').value = 'yesterday'").await;
    browser.click("#change-plan").await;
    browser.until(&says("is no trim-horizon")).await;
    browser.click("#change-close").await;
    browser.until("!document.querySelector('#change-dialog').open").await;
    // Without leave there is no button.
    let closed = Server::start(&bed).await;
    let mut reader =
        Browser::open("no-change", &format!("http://{}/", closed.address), 1000, 900).await.unwrap();
    reader.until("document.documentElement?.dataset.changes === 'false'").await;
    assert_eq!(reader.value("document.querySelector('#change').checkVisibility()").await, false);
}

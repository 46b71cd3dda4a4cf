//! The page in a real browser, where Chromium is installed.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::bench::{APPLICATION, TestBed, lease};
use crate::browser::Browser;
use crate::serve::Server;

/// Whether the page shows a look.
const IS_SHOWN: &str = "document.documentElement?.dataset.look !== undefined";

/// The least bytes of a picture with content; a blank one has a few thousand.
const MIN_PICTURE_BYTES: usize = 15_000;

async fn served(shards: u64) -> (TestBed, Server) {
    let bed = TestBed::start(1).await;
    let part = u128::MAX / u128::from(shards);
    let row = |shard: u64| {
        let text = AttributeValue::S;
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
    bed.put_rows(APPLICATION, (0..shards).map(row).collect()).await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    (bed, server)
}

async fn open(test: &str, server: &Server, rest: &str, width: u32) -> Option<Browser> {
    let mut browser = Browser::open(test, &format!("http://{}/{rest}", server.address), width, 900).await?;
    browser.until(IS_SHOWN).await;
    Some(browser)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clicks_and_keys_change_the_page_and_its_address() {
    let (_bed, server) = served(4).await;
    let Some(mut browser) = open("clicks", &server, "", 1200).await else { return };
    assert_eq!(browser.value("document.querySelector('#application').textContent").await, APPLICATION);
    assert_eq!(browser.value("document.querySelectorAll('#rows tr').length").await, 4);
    // A click on a row opens the view of its shard.
    browser.click("#rows tr[data-shard$='2'] button").await;
    browser.until("location.hash.includes('shard=shardId-000000000002')").await;
    browser.until("!document.querySelector('#shard').hidden").await;
    // Keys.
    browser.press("Escape").await;
    browser.until("document.querySelector('#shard').hidden && !location.hash.includes('shardId')").await;
    browser.value("document.querySelector('#picture').focus()").await;
    browser.press("ArrowDown").await;
    browser.press("ArrowDown").await;
    browser.until("location.hash.includes('shard=shardId-000000000001')").await;
    browser.press("Enter").await;
    browser.until("!document.querySelector('#shard').hidden").await;
    // The picture: a click into the lowest band.
    let at = browser.value("(() => { document.querySelector('#picture').scrollIntoView(); const box = document.querySelector('#picture').getBoundingClientRect(); return [box.x + box.width - 30, box.y + box.height * 0.45]; })()").await;
    browser.click_at(at[0].as_f64().unwrap(), at[1].as_f64().unwrap()).await;
    browser.until("location.hash.includes('shard=shardId-000000000003')").await;
    // The theme is in the address too.
    let theme = "document.documentElement.dataset.theme";
    browser.press("t").await;
    browser.until(&format!("location.hash.includes('theme=dark') && {theme} === 'dark'")).await;
    browser.press("t").await;
    browser.until(&format!("{theme} === 'light'")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_brings_its_state_back() {
    let (_bed, server) = served(4).await;
    let address = "#shard=shardId-000000000002&view=shard&theme=dark&filter=worker-2";
    let Some(mut browser) = open("address", &server, address, 500).await else { return };
    assert_eq!(browser.value("document.querySelectorAll('#rows tr').length").await, 1);
    assert_eq!(browser.value("document.querySelector('#shard').hidden").await, false);
    assert!(browser.picture("narrow-dark.png").await > MIN_PICTURE_BYTES);
    browser.resize(1400, 900).await;
    browser.until("document.querySelector('#picture').clientWidth > 1000").await;
    assert!(browser.picture("wide-dark.png").await > MIN_PICTURE_BYTES);
    // No line is wider than the narrow page.
    browser.resize(360, 800).await;
    browser.until("document.querySelector('#picture').clientWidth < 360").await;
    let wide = "[...document.querySelectorAll('body *')].filter((element) => element.checkVisibility() && \
                !element.matches('.skip') && element.getBoundingClientRect().right > 360).map((element) => element.outerHTML.slice(0, 200))";
    assert_eq!(browser.value(wide).await, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_the_table_are_text_on_the_page() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("<img src=x onerror=alert(1)>"))).await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let Some(mut browser) = open("names", &server, "", 800).await else { return };
    assert_eq!(browser.value("document.images.length").await, 0);
    assert_eq!(browser.value("document.body.innerText.includes('<img src=x')").await, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_2000_shards_and_asks_no_other_host() {
    let (_bed, server) = served(2_000).await;
    let Some(mut browser) = open("many", &server, "", 1400).await else { return };
    assert_eq!(browser.value("document.querySelectorAll('#rows tr').length").await, 200);
    browser.value("dispatchEvent(new Event('resize'))").await;
    let millis = "(() => { const before = performance.now(); dispatchEvent(new Event('resize')); return performance.now() - before; })()";
    println!("2000 shards are shown in {} ms", browser.value(millis).await);
    assert!(browser.picture("many.png").await > MIN_PICTURE_BYTES);
    let hosts =
        "[...new Set(performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host))]";
    assert_eq!(browser.value(hosts).await, serde_json::json!([server.address]));
}

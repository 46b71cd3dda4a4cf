//! A Kinesis server with almost no cost of its own: every answer is rendered in advance. It blocks, with a thread for each
//! connection, so it can run next to the measured code or in another process.

#![allow(dead_code, clippy::expect_used)] // each binary uses a part; a shape that cannot be rendered is a bug

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// The length of AWS iterators, in characters.
const ITERATOR_LENGTH: usize = 224;

/// The description of the stream, with the largest record that AWS allows, in KiB.
const DESCRIPTION: &str = r#"{"StreamDescriptionSummary": {
    "StreamName": "words", "StreamARN": "arn:aws:kinesis:eu-west-1:000000000000:stream/words", "StreamStatus": "ACTIVE",
    "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1700000000, "EnhancedMonitoring": [], "OpenShardCount": 1,
    "MaxRecordSizeInKiB": 10240}}"#;

/// The size of an answer of `GetRecords`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) records: usize,
    pub(crate) payload_bytes: usize,
}

/// One answer in both encodings.
#[derive(Debug)]
pub(crate) struct Rendered {
    cbor: Vec<u8>,
    json: Vec<u8>,
}

impl Shape {
    pub(crate) fn render(self) -> Rendered {
        let mut rng = fastrand::Rng::with_seed(1);
        let iterator = "i".repeat(ITERATOR_LENGTH);
        // As in AWS, maps and arrays have indefinite lengths.
        let mut cbor = b"\xbf\x67Records\x9f".to_vec();
        let mut json = b"{\"Records\":[".to_vec();
        for index in 0..self.records {
            let sequence_number = format!("49{index:054}");
            let key = format!("partition-key-{:08}", rng.u32(..100_000_000));
            let millis = 1_700_000_000_000 + index as u64;
            let data: Vec<u8> = (0..self.payload_bytes).map(|_| rng.u8(..)).collect();

            cbor.extend(b"\xbf\x6eSequenceNumber\x78\x38");
            cbor.extend(sequence_number.as_bytes());
            cbor.extend(b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b");
            cbor.extend(millis.to_be_bytes());
            cbor.extend(b"\x64Data\x5a");
            cbor.extend(u32::try_from(data.len()).expect("a payload is small").to_be_bytes());
            cbor.extend(&data);
            cbor.extend(b"\x6cPartitionKey\x76");
            cbor.extend(key.as_bytes());
            cbor.push(0xff);

            let comma = if index == 0 { "" } else { "," };
            let data = base64_simd::STANDARD.encode_to_string(&data);
            let (seconds, millis) = (millis / 1000, millis % 1000);
            json.extend(
                format!(
                    "{comma}{{\"SequenceNumber\":\"{sequence_number}\",\
                     \"ApproximateArrivalTimestamp\":{seconds}.{millis:03},\"Data\":\"{data}\",\
                     \"PartitionKey\":\"{key}\"}}"
                )
                .bytes(),
            );
        }
        cbor.extend(b"\xff\x71NextShardIterator\x78\xe0");
        cbor.extend(iterator.as_bytes());
        cbor.extend(b"\x72MillisBehindLatest\x00\xff");
        json.extend(format!("],\"NextShardIterator\":\"{iterator}\",\"MillisBehindLatest\":0}}").bytes());
        Rendered { cbor, json }
    }
}

/// Serves until the process ends.
#[allow(clippy::disallowed_methods)] // the server must not run in the measured runtime
pub(crate) fn serve(listener: &TcpListener, rendered: Rendered) {
    let rendered = Arc::new(rendered);
    for stream in listener.incoming() {
        let (Ok(stream), rendered) = (stream, rendered.clone()) else { return };
        std::thread::spawn(move || {
            // Fails when the client closes the connection.
            let _ = answer_all(stream, &rendered);
        });
    }
}

fn answer_all(mut stream: TcpStream, rendered: &Rendered) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let mut body = Vec::new();
    loop {
        let (mut length, mut is_cbor, mut is_read, mut is_description) = (0, false, false, false);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap_or(0);
            }
            is_cbor |= header == "content-type: application/x-amz-cbor-1.1";
            is_read |= header.ends_with(".getrecords");
            is_description |= header.ends_with(".describestreamsummary");
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let iterator = b"{\"ShardIterator\":\"first\"}".as_slice();
        let (encoding, answer) = match (is_read, is_cbor) {
            (false, _) if is_description => ("json", DESCRIPTION.as_bytes()),
            (false, _) => ("json", iterator),
            (true, true) => ("cbor", rendered.cbor.as_slice()),
            (true, false) => ("json", rendered.json.as_slice()),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-{encoding}-1.1\r\ncontent-length: {}\r\n\
             date: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(answer)?;
    }
}

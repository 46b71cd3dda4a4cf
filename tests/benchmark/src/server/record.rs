//! A record of Kinesis, and its form in JSON.

/// One record of Kinesis.
#[derive(Debug)]
pub(crate) struct Rendering<'a> {
    pub(crate) sequence_number: String,
    pub(crate) arrival_millis: u64,
    pub(crate) key: &'a str,
    pub(crate) data: &'a [u8],
}

/// Adds records as the items of a JSON array.
pub(super) fn push_json(json: &mut Vec<u8>, records: &[Rendering<'_>]) {
    for (index, record) in records.iter().enumerate() {
        let Rendering { sequence_number, arrival_millis, key, data } = record;
        let comma = if index == 0 { "" } else { "," };
        // The format of AWS: 1.700000000123E9.
        let time =
            format!("{}.{:012}E9", arrival_millis / 1_000_000_000_000, arrival_millis % 1_000_000_000_000);
        json.extend(
            format!(
                "{comma}{{\"SequenceNumber\":\"{sequence_number}\",\"ApproximateArrivalTimestamp\":{time},\
                 \"Data\":\"{}\",\"PartitionKey\":\"{key}\"}}",
                base64_simd::STANDARD.encode_to_string(data)
            )
            .bytes(),
        );
    }
}

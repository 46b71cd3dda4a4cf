//! The estimate of the number of records. The reader of records is compared with the general code in `cbor_tests.rs`.

use super::*;

/// The room for records after each growth, while an array of records of these sizes is read.
fn growth(sizes: &[usize]) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let (mut room, mut read, mut grown) = (0, 0, Vec::new());
    for (index, size) in sizes.iter().enumerate() {
        if index == room {
            room += further_records(index, read, total - read);
            grown.push(room);
        }
        read += size;
    }
    grown
}

#[test]
fn records_of_one_size_need_two_growths() {
    assert_eq!(growth(&[1100; 1000]), [16, 1001]);
    assert_eq!(growth(&[230; 10_000]), [16, 10_001]);
    assert_eq!(growth(&[50_000; 3]), [16]);
    assert!(growth(&[]).is_empty());
}

#[test]
fn room_is_bounded_by_the_rest_of_the_body() {
    // Tiny records first: the estimate exceeds the true number, but not what the rest can hold.
    let sizes = [vec![17; 16], vec![10_000; 100]].concat();
    let grown = growth(&sizes);
    assert!(grown.iter().all(|&room| room <= 16 + 100 * 10_000 / 17 + 1), "{grown:?}");
    assert!(further_records(16, 16, 1 << 40) <= MAX_RECORDS);
}

#[test]
fn large_records_first_cause_few_growths() {
    let sizes = [vec![1_000_000; 16], vec![30; 10_000]].concat();
    assert!(growth(&sizes).len() < 40, "{:?}", growth(&sizes));
}

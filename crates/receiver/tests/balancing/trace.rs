//! trace
use crate::fleet::Fleet;
fn show(mut fleet: Fleet) {
    for round in 0..45 {
        let mut histogram = std::collections::BTreeMap::new();
        for l in fleet.loads() {
            *histogram.entry(l).or_insert(0) += 1;
        }
        eprintln!("{round} {histogram:?} moves {} takes {}", fleet.moves, fleet.takes);
        if fleet.is_balanced() {
            break;
        }
        fleet.round_at_once();
    }
}
#[test]
fn trace() {
    let mut fleet = Fleet::balanced(1000, 200, 20_250_101);
    fleet.join(200);
    show(fleet);
    let mut fleet = Fleet::balanced(100, 20, 20_250_101);
    fleet.join(20);
    show(fleet);
    let mut fleet = Fleet::balanced(100, 200, 20_250_101);
    for m in 0..66 {
        fleet.crash(m);
    }
    show(fleet);
}

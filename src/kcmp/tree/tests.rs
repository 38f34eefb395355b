//! The tree against a fake kernel: objects in a hidden random order, a known partition.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::error::ResultExt;
use crate::ids::{Fd, Tid};

type Reference = (Tid, Fd);

fn id(number: u32) -> ObjectId {
    ObjectId(NonZeroU32::new(number).unwrap())
}

fn tree<F: Ord>() -> Tree<F, Reference> {
    Tree::new(id(1))
}

/// Reference number `n`, as the fake kernel knows it.
fn reference(n: usize) -> Reference {
    (Tid(4000), Fd(i32::try_from(n).unwrap()))
}

fn number(reference: Reference) -> usize {
    usize::try_from(reference.1.0).unwrap()
}

/// What no test target sees: which object a reference leads to, and where objects lie.
#[derive(Clone, Debug)]
struct Kernel {
    /// The object of each reference.
    object_of: Vec<usize>,
    /// The "address" of each object: a permutation.
    address: Vec<usize>,
    /// A trait all references of an object agree on; objects may collide.
    looks: Vec<u8>,
}

impl Kernel {
    fn object(&self, reference: Reference) -> usize {
        self.object_of[number(reference)]
    }

    fn kcmp(&self, a: Reference, b: Reference) -> Order {
        let (a, b) = (self.object(a), self.object(b));
        match self.address[a].cmp(&self.address[b]) {
            Ordering::Less => Order::Less,
            Ordering::Equal => Order::Equal,
            Ordering::Greater => Order::Greater,
        }
    }

    fn looks(&self, n: usize) -> u8 {
        self.looks[self.object_of[n]]
    }
}

prop_compose! {
    /// Up to 120 references to up to 60 objects with 1 to 256 different looks.
    fn kernels()(objects in 1..60_usize, references in 1..120_usize, variety in 1..=256_usize)(
        object_of in prop::collection::vec(0..objects, references),
        address in Just((0..objects).collect::<Vec<_>>()).prop_shuffle(),
        looks in prop::collection::vec(0..variety, objects),
    ) -> Kernel {
        let looks = looks.into_iter().map(|look| u8::try_from(look).unwrap()).collect();
        Kernel { object_of, address, looks }
    }
}

/// Identifies all references in their order, checking tree and cost at each step.
fn identify_all<F: Ord + Copy>(
    kernel: &Kernel,
    fingerprint: impl Fn(usize) -> F,
) -> (Tree<F, Reference>, Vec<Sighting>) {
    let mut tree = tree();
    let mut sightings = Vec::new();
    for n in 0..kernel.object_of.len() {
        let known = tree.nodes.len();
        let mut calls = 0;
        let sighting = tree.identify(fingerprint(n), reference(n), |a, b| {
            calls += 1;
            Ok(kernel.kcmp(a, b))
        });
        sightings.push(sighting.unwrap());
        check_invariants(&tree, kernel);
        assert!(calls <= bound(known), "{calls} calls among {known}");
        assert!(tree.way.len() <= bound(known), "way {:?}", tree.way);
    }
    (tree, sightings)
}

/// 2·log2(n + 1), rounded down.
fn bound(n: usize) -> usize {
    let squared = (n + 1) * (n + 1);
    usize::try_from(squared.ilog2()).unwrap()
}

/// Red-black shape, and order by (fingerprint, kernel) all over the tree.
fn check_invariants<F: Ord + Copy>(tree: &Tree<F, Reference>, kernel: &Kernel) {
    let mut in_order = Vec::new();
    if let Some(root) = tree.root {
        assert!(!tree.node(root).red, "the root is red");
        check_below(tree, root, &mut in_order);
    }
    assert_eq!(in_order.len(), tree.nodes.len(), "a node is lost");
    let keys = in_order.iter().map(|&slot| {
        let node = tree.node(slot);
        (
            node.fingerprint,
            kernel.address[kernel.object(node.reference)],
        )
    });
    assert!(keys.is_sorted_by(|a, b| a < b), "out of order");
}

/// The black nodes on each way down from `slot`, which must be equal.
fn check_below<F: Ord + Copy>(
    tree: &Tree<F, Reference>,
    slot: Slot,
    in_order: &mut Vec<Slot>,
) -> usize {
    let node = tree.node(slot);
    let mut heights = [0; 2];
    for side in [Side::Less, Side::Greater] {
        if let Some(child) = tree.child(slot, side) {
            assert!(!(node.red && tree.node(child).red), "red under red");
            heights[side as usize] = check_below(tree, child, in_order);
        }
        if side == Side::Less {
            in_order.push(slot);
        }
    }
    assert_eq!(heights[0], heights[1], "black heights differ");
    heights[0] + usize::from(!node.red)
}

/// The oracle: one id per object, one object per id, `First` exactly once and first.
fn check_partition(kernel: &Kernel, sightings: &[Sighting]) -> Result<(), String> {
    let mut id_of = HashMap::new();
    let mut object_of = HashMap::new();
    for (n, sighting) in sightings.iter().enumerate() {
        let object = kernel.object_of[n];
        let known = id_of.insert(object, sighting.id());
        let agrees = match sighting {
            Sighting::First(_) => known.is_none(),
            Sighting::Again(id) => known == Some(*id),
        };
        if !agrees {
            return Err(format!("reference {n}: object {object} is {sighting:?}"));
        }
        if object_of
            .insert(sighting.id(), object)
            .is_some_and(|other| other != object)
        {
            return Err(format!("{} names two objects", sighting.id()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn one_id_per_object(kernel in kernels()) {
        let (tree, sightings) = identify_all(&kernel, |n| kernel.looks(n));
        prop_assert_eq!(check_partition(&kernel, &sightings), Ok(()));

        let new = sightings.iter().filter(|s| matches!(s, Sighting::First(_))).count();
        prop_assert_eq!(tree.counters().asked, sightings.len() as u64);
        prop_assert_eq!(tree.counters().new, new as u64);
        let ids: Vec<u32> = tree.nodes.iter().map(|node| node.id.number()).collect();
        prop_assert!(ids.into_iter().eq(1..=u32::try_from(new).unwrap()), "ids have gaps");
    }

    /// Without any fingerprint the kernel alone must do, in logarithmic time.
    #[test]
    fn one_id_per_object_even_when_all_look_alike(kernel in kernels()) {
        let (_, sightings) = identify_all(&kernel, |_| ());
        prop_assert_eq!(check_partition(&kernel, &sightings), Ok(()));
    }

    /// Objects that all look different are never asked about until they are met again.
    #[test]
    fn sharp_fingerprints_cost_one_call_per_known_reference(mut kernel in kernels()) {
        kernel.looks = (0..kernel.looks.len()).map(|n| u8::try_from(n).unwrap()).collect();
        let (tree, _) = identify_all(&kernel, |n| kernel.looks(n));
        let Counters { asked, new, kcmp_calls } = tree.counters();
        prop_assert_eq!(kcmp_calls, asked - new);
    }

    /// The oracle itself: a fingerprint that depends on the reference is caught, exactly when
    /// some object has references on both sides of it.
    #[test]
    fn a_separating_fingerprint_is_detected(kernel in kernels()) {
        let mut parities = BTreeMap::<usize, [bool; 2]>::new();
        for (n, object) in kernel.object_of.iter().enumerate() {
            parities.entry(*object).or_default()[n % 2] = true;
        }
        let separated = parities.values().any(|seen| *seen == [true, true]);
        let (_, sightings) = identify_all(&kernel, |n| (n % 2, kernel.looks(n)));
        prop_assert_eq!(check_partition(&kernel, &sightings).is_err(), separated);
    }

    /// The oracle itself: a kernel that takes two objects for one is caught.
    #[test]
    fn a_kernel_that_merges_objects_is_detected(kernel in kernels()) {
        let mut blind = kernel.clone();
        blind.object_of.iter_mut().for_each(|object| *object /= 2);
        let mut tree = tree();
        let all = (0..kernel.object_of.len())
            .map(|n| tree.identify((), reference(n), |a, b| Ok(blind.kcmp(a, b))).unwrap());
        let sightings: Vec<Sighting> = all.collect();
        let merged = (0..60).any(|pair| {
            let used = |object| kernel.object_of.contains(&object);
            used(2 * pair) && used(2 * pair + 1)
        });
        prop_assert_eq!(check_partition(&kernel, &sightings).is_err(), merged);
    }

    /// Any ranks, right or wrong, change the cost and never the answer.
    #[test]
    fn ranks_change_no_answer(
        kernel in kernels(),
        guesses in prop::collection::vec(prop::option::of(0..80_u32), 120),
    ) {
        let mut tree = tree();
        let mut sightings = Vec::new();
        for (n, guess) in guesses.iter().enumerate().take(kernel.object_of.len()) {
            let known = tree.nodes.len();
            let calls_before = tree.counters().kcmp_calls;
            let found = tree.identify_with_rank(kernel.looks(n), reference(n), *guess, |a, b| {
                Ok(kernel.kcmp(a, b))
            });
            sightings.push(found.unwrap());
            let calls = tree.counters().kcmp_calls - calls_before;
            prop_assert!(calls <= 2 * bound(known) as u64 + 2, "{} calls among {}", calls, known);
            check_invariants(&tree, &kernel);
        }
        prop_assert_eq!(check_partition(&kernel, &sightings), Ok(()));
    }

    /// With the ranks of an earlier tree, a known object costs one question, and a new one that
    /// comes in their order costs one, too.
    #[test]
    fn right_ranks_make_it_cheap(kernel in kernels(), shuffled in any::<bool>()) {
        let (earlier, known) = identify_all(&kernel, |n| kernel.looks(n));
        let ranks = earlier.ranks();
        let rank = |n: usize| ranks[&known[n].id()];
        let mut order: Vec<usize> = (0..kernel.object_of.len()).collect();
        if !shuffled {
            order.sort_by_key(|n| rank(*n));
        }
        let mut tree = tree();
        for n in order {
            let before = tree.counters().kcmp_calls;
            let found = tree.identify_with_rank(kernel.looks(n), reference(n), rank(n), |a, b| {
                Ok(kernel.kcmp(a, b))
            });
            let most = match found.unwrap() {
                Sighting::First(_) if shuffled => 2,
                _ => 1,
            };
            let calls = tree.counters().kcmp_calls - before;
            prop_assert!(calls <= most, "{} calls", calls);
            check_invariants(&tree, &kernel);
        }
    }

    /// A comparison that fails at any point is passed on, and nothing has happened.
    #[test]
    fn a_failing_comparison_leaves_the_tree_unchanged(kernel in kernels(), fail_at in 0..12_u32) {
        let mut tree = tree();
        for n in 0..kernel.object_of.len() {
            let mut left = fail_at;
            let before = format!("{:?} {:?} {:?}", tree.nodes, tree.root, tree.by_id);
            let failing = tree.identify(kernel.looks(n), reference(n), |a, b| {
                let order = left.checked_sub(1).map(|rest| left = rest).map(|()| kernel.kcmp(a, b));
                let target = Target::Pair(Box::new(a.into()), Box::new(b.into()));
                order.ok_or(Errno::EPERM).on("kcmp FILE", target)
            });
            let Err(error) = failing else { continue };
            let text = error.to_string();
            prop_assert!(text.starts_with("kcmp FILE 4000:"), "{}", text);
            prop_assert!(text.contains(&format!(" ~ 4000:{n}: EPERM")), "{}", text);
            let after = format!("{:?} {:?} {:?}", tree.nodes, tree.root, tree.by_id);
            prop_assert_eq!(before, after);
            // The next attempt succeeds, as if the failed one had not been.
            let again = tree.identify(kernel.looks(n), reference(n), |a, b| Ok(kernel.kcmp(a, b)));
            prop_assert!(again.is_ok());
            check_invariants(&tree, &kernel);
        }
    }
}

#[test]
fn unordered_names_both_sides() {
    let mut tree = tree();
    let first = tree.identify((), (Tid(4120), Fd(7)), |_, _| Ok(Order::Unordered));
    assert!(
        matches!(first, Ok(Sighting::First(_))),
        "nothing to compare with"
    );
    let error = tree
        .identify((), (Tid(4127), Fd(3)), |_, _| Ok(Order::Unordered))
        .unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert!(
        error.to_string().starts_with("4120:7 ~ 4127:3: "),
        "{error}"
    );
    assert_eq!(tree.nodes.len(), 1);
}

#[test]
fn ids_outside_the_tree_come_from_the_same_series() {
    let mut tree = tree();
    let compare = |_, _| Ok(Order::Less);
    assert_eq!(tree.identify(1, reference(0), compare).unwrap().id(), id(1));
    assert_eq!(tree.claim_fresh().unwrap().spend(), id(2));
    assert_eq!(tree.identify(2, reference(1), compare).unwrap().id(), id(3));
    assert_eq!(tree.reference(id(1)), Some(reference(0)));
    assert_eq!(tree.reference(id(2)), None);
    assert_eq!(tree.reference(id(3)), Some(reference(1)));
    assert_eq!(tree.reference(id(4)), None);
    assert_eq!(tree.counters().new, 2);
}

#[test]
fn a_known_object_is_recognised_without_a_fingerprint() {
    let mut tree = tree();
    let first = tree.identify("looks", reference(0), |_, _| Ok(Order::Equal));
    let known = first.unwrap().id();
    let same = tree.is(known, reference(1), |a, b| {
        assert_eq!((a, b), (reference(0), reference(1)));
        Ok(Order::Equal)
    });
    assert!(same.unwrap());
    assert!(
        !tree
            .is(known, reference(2), |_, _| Ok(Order::Less))
            .unwrap()
    );
    let never = |_, _| panic!("asked about an id that is not in the tree");
    assert!(!tree.is(id(9), reference(2), never).unwrap());
    let expected = Counters {
        asked: 2,
        new: 1,
        kcmp_calls: 2,
    };
    assert_eq!(tree.counters(), expected);
}

#[test]
fn ids_start_where_told_and_end_before_they_wrap() {
    let mut tree: Tree<u8, Reference> = Tree::new(id(u32::MAX));
    let last = tree.identify(1, reference(0), |_, _| Ok(Order::Less));
    assert_eq!(last.unwrap().id(), id(u32::MAX));
    let none_left = tree.identify(2, reference(1), |_, _| Ok(Order::Less));
    assert!(matches!(none_left, Err(Error::Unsupported { .. })));
    assert_eq!(tree.nodes.len(), 1);
}

/// Ascending, descending and alternating insertion, where an unbalanced tree becomes a list.
#[test]
fn sorted_input_stays_shallow() {
    let count = 10_000_usize;
    let orders: [fn(usize, usize) -> usize; 3] = [
        |n, _| n,
        |n, count| count - n,
        |n, count| if n % 2 == 0 { n } else { 2 * count - n },
    ];
    for order in orders {
        let mut tree = tree();
        for n in 0..count {
            let sighting = tree.identify(order(n, count), reference(n), |_, _| Ok(Order::Equal));
            assert!(matches!(sighting.unwrap(), Sighting::First(_)));
            assert!(tree.way.len() <= bound(n));
        }
        assert_eq!(tree.counters().kcmp_calls, 0);
    }
}

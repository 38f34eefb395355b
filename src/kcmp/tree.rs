//! The tree that decides whether a kernel object was met before.
//!
//! Handles of tasks (a tid, a tid and a descriptor) are *references*; many references may lead
//! to one kernel *object*. The tree holds each object once, under the first reference that was
//! seen of it, and is ordered by
//!
//! 1. the *fingerprint*: whatever all references to one object must agree on. Comparing it
//!    costs nothing. Objects with different fingerprints are different;
//! 2. among equal fingerprints, the kernel's own answer (`kcmp`), which costs a system call.
//!
//! ```text
//!                    ┌──────────────────────┐
//!                    │ (inode 7) 4120:3 = 2 │            fingerprint, reference = id
//!                    └──────────┬───────────┘
//!              less ┌───────────┴───────────┐ greater
//!        ┌──────────┴───────────┐ ┌─────────┴────────────┐
//!        │ (inode 5) 4120:0 = 1 │ │ (inode 9) 4120:4 = 3 │
//!        └──────────────────────┘ └─────────┬────────────┘
//!                                           │ same fingerprint: the kernel says "greater"
//!                                 ┌─────────┴────────────┐
//!                                 │ (inode 9) 4127:4 = 4 │
//!                                 └──────────────────────┘
//! ```
//!
//! A fingerprint may be as dull as it likes (then there are more system calls), but must never
//! differ between two references to one object (then the object would be written twice).
//!
//! The tree is red-black: a red node has no red child, and every way down from the root passes
//! the same number of black nodes. The longest way is thus at most twice the shortest, and no
//! search looks at more than 2·log2(n + 1) nodes. Nothing is ever removed.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::error::{Error, Result, Target};
use crate::ids::ObjectId;
use crate::sys::kcmp::Order;

/// What identifying a reference found out.
#[must_use = "a first sighting is the only chance to write the object"]
#[derive(Debug)]
pub enum Sighting {
    /// Nobody referred to this object before: here is its new id, and the duty to write it.
    First(Claim),
    /// The object is known, and written by whoever met it first: here is its id.
    Again(ObjectId),
}

impl Sighting {
    /// The id of the object, new or known.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Sighting::First(claim) => claim.id(),
            Sighting::Again(id) => *id,
        }
    }
}

/// The right, and the duty, to write the entry of one object.
///
/// There is one per object: it cannot be copied, and the image writer takes it away.
#[must_use = "an object whose claim is dropped is missing in the images"]
#[derive(Debug, PartialEq, Eq)]
pub struct Claim(ObjectId);

impl Claim {
    /// The id under which the object is to be written.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0
    }

    /// Gives the claim up for the id; for image writers only.
    pub(crate) fn spend(self) -> ObjectId {
        self.0
    }
}

/// How much work the identification of one kind of object was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// References asked about.
    pub asked: u64,
    /// Objects that were met for the first time.
    pub new: u64,
    /// `kcmp` system calls made for it.
    pub kcmp_calls: u64,
}

/// All objects of one kind that were met so far.
#[derive(Debug)]
pub struct Tree<F, R> {
    nodes: Vec<Node<F, R>>,
    root: Option<Slot>,
    /// Where the object of an id is; `None` for ids that were handed out past the tree.
    by_id: Vec<Option<Slot>>,
    first_id: ObjectId,
    /// The way of the last search, from the root down, kept to spare allocations.
    way: Vec<(Slot, Side)>,
    counters: Counters,
}

/// Index into [`Tree::nodes`].
type Slot = u32;

/// What a search by rank found out.
enum Found {
    /// The object.
    At(Slot),
    /// That it is not there; `way` ends where it belongs.
    Nowhere,
    /// Nothing: the ranks do not hold.
    Unknown,
}

#[derive(Debug)]
struct Node<F, R> {
    fingerprint: F,
    reference: R,
    id: ObjectId,
    /// Where it was expected among those with its fingerprint.
    rank: Option<u32>,
    children: [Option<Slot>; 2],
    red: bool,
}

/// Index into [`Node::children`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Less = 0,
    Greater = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Less => Side::Greater,
            Side::Greater => Side::Less,
        }
    }
}

impl<F: Ord, R: Copy + Into<Target>> Tree<F, R> {
    /// An empty tree whose ids count up from `first_id`.
    pub fn new(first_id: ObjectId) -> Self {
        Self {
            nodes: Vec::new(),
            root: None,
            by_id: Vec::new(),
            first_id,
            way: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Finds the object behind `reference`, or enters it as a new one.
    ///
    /// `compare(known, new)` asks the kernel about two references. A failure leaves the tree
    /// as it was.
    ///
    /// # Errors
    /// Those of `compare`; [`Error::Unsupported`] naming both sides when the kernel calls
    /// them unordered.
    pub fn identify(
        &mut self,
        fingerprint: F,
        reference: R,
        compare: impl FnMut(R, R) -> Result<Order>,
    ) -> Result<Sighting> {
        self.identify_with_rank(fingerprint, reference, None, compare)
    }

    /// [`identify`](Self::identify), with a guess of where the object is.
    ///
    /// Ranks say how objects with one fingerprint were ordered when they were looked at before
    /// (see [`ranks`](Self::ranks)); the same rank means the same object. The search follows the
    /// ranks without asking, and the kernel is asked about the two neighbours, or the one
    /// object, that it ends at: as all others are in order, that proves the place. A wrong rank
    /// costs these questions and a search.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn identify_with_rank(
        &mut self,
        fingerprint: F,
        reference: R,
        rank: Option<u32>,
        mut compare: impl FnMut(R, R) -> Result<Order>,
    ) -> Result<Sighting> {
        self.counters.asked += 1;
        let found = match rank {
            Some(rank) => self.search_by_rank(&fingerprint, rank, reference, &mut compare)?,
            None => Found::Unknown,
        };
        let found = match found {
            Found::Unknown => self.search(&fingerprint, reference, &mut compare)?,
            Found::At(slot) => Some(slot),
            Found::Nowhere => None,
        };
        if let Some(known) = found {
            return Ok(Sighting::Again(self.node(known).id));
        }
        let claim = self.insert(fingerprint, reference, rank)?;
        self.counters.new += 1;
        Ok(Sighting::First(claim))
    }

    /// Whether `reference` leads to the object `id`: one comparison, and no fingerprint needed.
    ///
    /// For references that nearly always lead there, such as a thread's to what its leader has.
    /// After `false` (which an `id` that is not in this tree yields, too) comes
    /// [`identify`](Self::identify), so that only `true` counts as a reference asked about.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn is(
        &mut self,
        id: ObjectId,
        reference: R,
        mut compare: impl FnMut(R, R) -> Result<Order>,
    ) -> Result<bool> {
        let Some(slot) = self.slot_of(id) else {
            return Ok(false);
        };
        let same = self.ask(slot, reference, &mut compare)? == Ordering::Equal;
        self.counters.asked += u64::from(same);
        Ok(same)
    }

    /// An id of the same series for an object that no reference leads to.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the ids are used up.
    pub fn claim_fresh(&mut self) -> Result<Claim> {
        self.hand_out(None)
    }

    /// Counts work that was done beside the tree: `known` references that were found to lead to
    /// known objects, at the cost of some questions.
    pub fn asked_elsewhere(&mut self, known: u64, kcmp_calls: u64) {
        self.counters.asked += known;
        self.counters.kcmp_calls += kcmp_calls;
    }

    /// The first reference that was seen of an object of this tree.
    #[must_use]
    pub fn reference(&self, id: ObjectId) -> Option<R> {
        self.slot_of(id).map(|slot| self.node(slot).reference)
    }

    /// How much work this tree was so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Walks down to the object of `reference`; when it is not there, `way` ends where it
    /// belongs.
    fn search(
        &mut self,
        fingerprint: &F,
        reference: R,
        compare: &mut impl FnMut(R, R) -> Result<Order>,
    ) -> Result<Option<Slot>> {
        self.way.clear();
        let mut next = self.root;
        while let Some(slot) = next {
            let order = match self.node(slot).fingerprint.cmp(fingerprint) {
                Ordering::Equal => self.ask(slot, reference, compare)?,
                different => different,
            };
            let side = match order {
                Ordering::Equal => return Ok(Some(slot)),
                Ordering::Less => Side::Greater,
                Ordering::Greater => Side::Less,
            };
            self.way.push((slot, side));
            next = self.child(slot, side);
        }
        Ok(None)
    }

    /// The same by rank, asking only about the end of the way: the neighbours of the place it
    /// leads to are the last ones on it that were left behind on either side.
    fn search_by_rank(
        &mut self,
        fingerprint: &F,
        rank: u32,
        reference: R,
        compare: &mut impl FnMut(R, R) -> Result<Order>,
    ) -> Result<Found> {
        self.way.clear();
        let (mut below, mut above) = (None, None);
        let mut next = self.root;
        while let Some(slot) = next {
            let node = self.node(slot);
            let side = match node.fingerprint.cmp(fingerprint) {
                Ordering::Less => Side::Greater,
                Ordering::Greater => Side::Less,
                Ordering::Equal => match node.rank.map(|known| known.cmp(&rank)) {
                    // Of one that was not there before, only the kernel knows.
                    None => match self.ask(slot, reference, compare)? {
                        Ordering::Equal => return Ok(Found::At(slot)),
                        Ordering::Less => {
                            below = None;
                            Side::Greater
                        }
                        Ordering::Greater => {
                            above = None;
                            Side::Less
                        }
                    },
                    Some(Ordering::Equal) => {
                        let same = self.ask(slot, reference, compare)? == Ordering::Equal;
                        return Ok(if same {
                            Found::At(slot)
                        } else {
                            Found::Unknown
                        });
                    }
                    Some(Ordering::Less) => {
                        below = Some(slot);
                        Side::Greater
                    }
                    Some(Ordering::Greater) => {
                        above = Some(slot);
                        Side::Less
                    }
                },
            };
            self.way.push((slot, side));
            next = self.child(slot, side);
        }
        for (neighbour, wanted) in [(below, Ordering::Less), (above, Ordering::Greater)] {
            if let Some(slot) = neighbour
                && self.ask(slot, reference, compare)? != wanted
            {
                return Ok(Found::Unknown);
            }
        }
        Ok(Found::Nowhere)
    }

    /// Where each object stands among those with its fingerprint, counted through the whole
    /// tree, by id; `None` for an object whose fingerprint nobody else has.
    #[must_use]
    pub fn ranks(&self) -> HashMap<ObjectId, Option<u32>> {
        let mut in_order = Vec::with_capacity(self.nodes.len());
        let mut above = Vec::new();
        let mut next = self.root;
        loop {
            while let Some(slot) = next {
                above.push(slot);
                next = self.child(slot, Side::Less);
            }
            let Some(slot) = above.pop() else { break };
            in_order.push(slot);
            next = self.child(slot, Side::Greater);
        }
        let alike = |a: Option<&Slot>, b: Option<&Slot>| match (a, b) {
            (Some(a), Some(b)) => self.node(*a).fingerprint == self.node(*b).fingerprint,
            _ => false,
        };
        let places = in_order.iter().enumerate();
        places
            .map(|(place, slot)| {
                let before = place.checked_sub(1).and_then(|place| in_order.get(place));
                let ranked =
                    alike(before, Some(slot)) || alike(Some(slot), in_order.get(place + 1));
                let rank = u32::try_from(place).ok().filter(|_| ranked);
                (self.node(*slot).id, rank)
            })
            .collect()
    }

    /// Asks the kernel how the object in `slot` stands to that of `reference`.
    fn ask(
        &mut self,
        slot: Slot,
        reference: R,
        compare: &mut impl FnMut(R, R) -> Result<Order>,
    ) -> Result<Ordering> {
        self.counters.kcmp_calls += 1;
        let known = self.node(slot).reference;
        match compare(known, reference)? {
            Order::Equal => Ok(Ordering::Equal),
            Order::Less => Ok(Ordering::Less),
            Order::Greater => Ok(Ordering::Greater),
            Order::Unordered => Err(Error::unsupported(
                Target::Pair(Box::new(known.into()), Box::new(reference.into())),
                "a pair that the kernel's kcmp calls different but will not order",
                "run a kernel whose kcmp orders what it compares",
            )),
        }
    }

    /// Hangs a new node where the last search ended, and balances the tree again.
    fn insert(&mut self, fingerprint: F, reference: R, rank: Option<u32>) -> Result<Claim> {
        let slot = Slot::try_from(self.nodes.len()).map_err(|_| ids_used_up())?;
        let claim = self.hand_out(Some(slot))?;
        self.nodes.push(Node {
            fingerprint,
            reference,
            id: claim.id(),
            rank,
            children: [None, None],
            red: true,
        });
        self.link(self.way.len(), slot);
        self.balance(slot);
        Ok(claim)
    }

    /// Makes `slot` the child that the first `depth` steps of the last way lead to.
    fn link(&mut self, depth: usize, slot: Slot) {
        match depth.checked_sub(1).and_then(|last| self.way.get(last)) {
            Some(&(parent, side)) => self.node_mut(parent).children[side as usize] = Some(slot),
            None => self.root = Some(slot),
        }
    }

    /// Removes the one possible flaw after an insertion: red `child` under a red parent.
    ///
    /// ```text
    ///   red uncle: recolour, and         black uncle, outer child: rotate the grandparent;
    ///   look at the grandparent          an inner child is first rotated outside
    ///
    ///       G              (G)                   G                 P
    ///      / \     ──►     / \                  / \      ──►      / \
    ///    (P) (U)          P   U               (P)  U           (C) (G)
    ///    /                /                   /                       \
    ///  (C)              (C)                 (C)         (red)          U
    /// ```
    fn balance(&mut self, mut child: Slot) {
        let mut depth = self.way.len();
        while let Some((grandparent, parent_side, parent, child_side)) = self.elders(depth) {
            if !self.node(parent).red {
                break;
            }
            if let Some(uncle) = self.child(grandparent, parent_side.other())
                && self.node(uncle).red
            {
                self.node_mut(parent).red = false;
                self.node_mut(uncle).red = false;
                self.node_mut(grandparent).red = true;
                child = grandparent;
                depth -= 2;
                continue;
            }
            let top = if child_side == parent_side {
                parent
            } else {
                self.rotate(parent, child_side, child);
                self.node_mut(grandparent).children[parent_side as usize] = Some(child);
                child
            };
            self.rotate(grandparent, parent_side, top);
            self.link(depth - 2, top);
            self.node_mut(top).red = false;
            self.node_mut(grandparent).red = true;
            break;
        }
        if let Some(root) = self.root {
            self.node_mut(root).red = false;
        }
    }

    /// The two nodes above the one that `depth` steps lead to, and the sides taken from them.
    fn elders(&self, depth: usize) -> Option<(Slot, Side, Slot, Side)> {
        match self.way.get(..depth)? {
            [.., (grandparent, parent_side), (parent, child_side)] => {
                Some((*grandparent, *parent_side, *parent, *child_side))
            }
            _ => None,
        }
    }

    /// Lifts `child`, on that `side` of `above`, over it; the caller links `child` to the rest.
    fn rotate(&mut self, above: Slot, side: Side, child: Slot) {
        let between = self.child(child, side.other());
        self.node_mut(above).children[side as usize] = between;
        self.node_mut(child).children[side.other() as usize] = Some(above);
    }

    fn hand_out(&mut self, slot: Option<Slot>) -> Result<Claim> {
        let id = u32::try_from(self.by_id.len())
            .ok()
            .and_then(|count| self.first_id.0.checked_add(count))
            .ok_or_else(ids_used_up)?;
        self.by_id.push(slot);
        Ok(Claim(ObjectId(id)))
    }

    fn slot_of(&self, id: ObjectId) -> Option<Slot> {
        let index = id.number().checked_sub(self.first_id.number())?;
        self.by_id.get(index as usize).copied().flatten()
    }

    fn child(&self, slot: Slot, side: Side) -> Option<Slot> {
        self.node(slot).children[side as usize]
    }

    fn node(&self, slot: Slot) -> &Node<F, R> {
        &self.nodes[slot as usize]
    }

    fn node_mut(&mut self, slot: Slot) -> &mut Node<F, R> {
        &mut self.nodes[slot as usize]
    }
}

fn ids_used_up() -> Error {
    Error::unsupported(
        Target::Here,
        "a tree with more than 4,294,967,294 objects of one kind",
        "dump a part of it",
    )
}

#[cfg(test)]
mod tests;

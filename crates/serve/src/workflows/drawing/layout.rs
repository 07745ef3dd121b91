//! Places steps in layers, as Sugiyama's method does: layers by the longest path, long edges cut by bends, then the order
//! within each layer by the mean position of the neighbours.

use super::{DrawnStep, edges};

/// The width of a letter, in units of the picture. Names have a fixed-width font.
const LETTER: usize = 8;
const PADDING: usize = 14;
const HEIGHT: usize = 46;
/// Free space between layers, for the edges, and between the steps of a layer.
const BETWEEN_LAYERS: usize = 60;
const BETWEEN_STEPS: usize = 18;
const MARGIN: usize = 16;
/// The height of an edge's bend in its layer.
const BEND: usize = 14;
/// Passes over all layers. Further passes change little.
const SWEEPS: usize = 8;
/// The letters of a name that are shown; a name has at most 64 bytes.
pub(super) const MOST_LETTERS: usize = 32;

/// The place of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The places of all steps and the ways of all edges.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    /// One for each step, in order.
    pub(super) places: Vec<Place>,
    /// The points of each edge: the right side of a step, bends, the left side of another step.
    pub(super) edges: Vec<Vec<(usize, usize)>>,
}

/// A step, or a bend of an edge that passes a layer.
struct Item {
    layer: usize,
    width: usize,
    height: usize,
    before: Vec<usize>,
    behind: Vec<usize>,
}

impl Layout {
    pub(super) fn of(steps: &[DrawnStep]) -> Self {
        let edges = edges(steps);
        let layers = layers(steps.len(), &edges);
        let mut items: Vec<_> = steps.iter().zip(&layers).map(|(step, layer)| Item::of(step, *layer)).collect();
        let ways: Vec<_> = edges.iter().map(|edge| way(&mut items, *edge)).collect();
        let mut rows = vec![Vec::new(); layers.iter().max().map_or(0, |last| last + 1)];
        for (at, item) in items.iter().enumerate() {
            rows[item.layer].push(at);
        }
        order(&mut rows, &items);
        let places = places(&rows, &items);
        let (width, height) = places.iter().fold((0, 0), |(width, height), place| {
            (width.max(place.x + place.width), height.max(place.y + place.height))
        });
        let points = ways.iter().map(|way| points(way, &places)).collect();
        let places = places.into_iter().take(steps.len()).collect();
        Self { width: width + MARGIN, height: height + MARGIN, places, edges: points }
    }
}

impl Item {
    fn of(step: &DrawnStep, layer: usize) -> Self {
        let letters = step.name.chars().count().max(step.note.chars().count()).min(MOST_LETTERS);
        let width = letters * LETTER + 2 * PADDING;
        Self { layer, width, height: HEIGHT, before: Vec::new(), behind: Vec::new() }
    }
}

/// The layer of each step: one after the last of its predecessors.
fn layers(steps: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layers = vec![0; steps];
    // No path is longer than the number of steps; a cycle, which no accepted workflow has, ends here too.
    for _ in 0..steps {
        let mut is_stable = true;
        for (from, to) in edges {
            if layers[*to] <= layers[*from] && layers[*from] + 1 < steps {
                (layers[*to], is_stable) = (layers[*from] + 1, false);
            }
        }
        if is_stable {
            break;
        }
    }
    layers
}

/// The items of an edge: its two steps, and a new bend in each layer between them.
fn way(items: &mut Vec<Item>, (from, to): (usize, usize)) -> Vec<usize> {
    let mut way = vec![from];
    for layer in items[from].layer + 1..items[to].layer {
        items.push(Item { layer, width: 0, height: BEND, before: Vec::new(), behind: Vec::new() });
        way.push(items.len() - 1);
    }
    way.push(to);
    for pair in way.windows(2) {
        items[pair[0]].behind.push(pair[1]);
        items[pair[1]].before.push(pair[0]);
    }
    way
}

fn order(rows: &mut [Vec<usize>], items: &[Item]) {
    let mut position = vec![0; items.len()];
    let note = |row: &[usize], position: &mut Vec<usize>| {
        row.iter().enumerate().for_each(|(place, item)| position[*item] = place);
    };
    rows.iter().for_each(|row| note(row, &mut position));
    for sweep in 0..SWEEPS {
        let is_forward = sweep % 2 == 0;
        let count = rows.len();
        for step in 0..count {
            let row = &mut rows[if is_forward { step } else { count - 1 - step }];
            let mean = |item: usize| {
                let beside = if is_forward { &items[item].before } else { &items[item].behind };
                let sum: usize = beside.iter().map(|other| position[*other]).sum();
                // Scaled, because keys are compared as whole numbers.
                if beside.is_empty() { position[item] * 1000 } else { sum * 1000 / beside.len() }
            };
            row.sort_by_key(|item| mean(*item));
            note(row, &mut position);
        }
    }
}

/// Stacks the items of each layer, in the middle of the picture.
fn places(rows: &[Vec<usize>], items: &[Item]) -> Vec<Place> {
    let tall = |row: &Vec<usize>| {
        let own: usize = row.iter().map(|item| items[*item].height).sum();
        own + row.len().saturating_sub(1) * BETWEEN_STEPS
    };
    let tallest = rows.iter().map(tall).max().unwrap_or(0);
    let (mut places, mut x) = (vec![Place::default(); items.len()], MARGIN);
    for row in rows {
        let width = row.iter().map(|item| items[*item].width).max().unwrap_or(0);
        let mut y = MARGIN + (tallest - tall(row)) / 2;
        for item in row {
            places[*item] = Place { x, y, width, height: items[*item].height };
            y += items[*item].height + BETWEEN_STEPS;
        }
        x += width + BETWEEN_LAYERS;
    }
    places
}

fn points(way: &[usize], places: &[Place]) -> Vec<(usize, usize)> {
    let middle = |place: &Place| place.y + place.height / 2;
    let last = way.len() - 1;
    way.iter()
        .enumerate()
        .flat_map(|(at, item)| {
            let place = &places[*item];
            let (left, right) = ((place.x, middle(place)), (place.x + place.width, middle(place)));
            // A bend passes its layer in a straight line.
            match at {
                0 => vec![right],
                at if at == last => vec![left],
                _ => vec![left, right],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(graph: &[(&str, &[&str])]) -> Vec<DrawnStep> {
        let step = |(name, after): &(&str, &[&str])| DrawnStep {
            name: (*name).to_owned(),
            note: String::new(),
            status: "Waiting".to_owned(),
            after: after.iter().map(|&name| name.to_owned()).collect(),
        };
        graph.iter().map(step).collect()
    }

    #[test]
    fn every_edge_leads_to_the_right_and_no_two_steps_overlap() {
        let steps = steps(&[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["a"]),
            ("d", &["b", "c"]),
            ("e", &["a", "d"]),
            ("f", &[]),
            ("g", &["f", "b"]),
        ]);
        let layout = Layout::of(&steps);
        assert_eq!(layout.edges.len(), 8);
        for way in &layout.edges {
            assert!(way.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{way:?}");
        }
        for (at, one) in layout.places.iter().enumerate() {
            assert!(one.x + one.width <= layout.width && one.y + one.height <= layout.height, "{one:?}");
            for other in &layout.places[at + 1..] {
                let is_beside = one.x + one.width <= other.x || other.x + other.width <= one.x;
                let is_above = one.y + one.height <= other.y || other.y + other.height <= one.y;
                assert!(is_beside || is_above, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn an_edge_over_two_layers_bends_around_the_step_between_them() {
        let layout = Layout::of(&steps(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]));
        let long = layout.edges.iter().find(|way| way.len() == 4).unwrap();
        let between = layout.places[1];
        assert!(long[1].1 < between.y || long[1].1 > between.y + between.height, "{long:?} {between:?}");
    }

    #[test]
    fn a_cycle_ends_and_an_empty_workflow_has_a_picture() {
        assert_eq!(Layout::of(&steps(&[("a", &["b"]), ("b", &["a"])])).places.len(), 2);
        assert_eq!(Layout::of(&[]).places, []);
    }
}

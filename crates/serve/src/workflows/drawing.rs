//! Pictures of workflows: a graph of the steps, as SVG or as text for Mermaid.
//!
//! `layout` places the steps in layers, `svg` and `mermaid` write them.

mod layout;
mod mermaid;
mod svg;

/// The most steps of a picture. A larger one cannot be read, and takes long to lay out.
pub const MOST_STEPS: usize = 500;

/// One step of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnStep {
    /// The step's name.
    pub name: String,
    /// The second line, such as the job's name or the progress of a group.
    pub note: String,
    /// The step's status, which decides the colour.
    pub status: String,
    /// The names of the steps that precede it. Unknown names are left out.
    pub after: Vec<String>,
}

/// A workflow that has too many steps for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a picture has at most {MOST_STEPS} steps, and this workflow has {steps}: use the format table or json")]
pub struct TooManySteps {
    /// The number of steps.
    pub steps: usize,
}

/// Draws steps as SVG: layers from left to right, each step in the first layer after all its predecessors.
///
/// ```
/// use leveret_serve::workflows::drawing::{DrawnStep, svg};
///
/// let step = |name: &str, after: &[&str]| DrawnStep {
///     name: name.to_owned(),
///     note: "demo.task".to_owned(),
///     status: "Completed".to_owned(),
///     after: after.iter().map(|&name| name.to_owned()).collect(),
/// };
/// let picture = svg("order", &[step("charge", &[]), step("ship", &["charge"])])?;
/// assert!(picture.starts_with("<svg") && picture.contains(">ship</text>"));
/// # Ok::<_, leveret_serve::workflows::drawing::TooManySteps>(())
/// ```
///
/// # Errors
///
/// [`TooManySteps`].
pub fn svg(title: &str, steps: &[DrawnStep]) -> Result<String, TooManySteps> {
    fits(steps)?;
    Ok(svg::written(title, steps, &layout::Layout::of(steps)))
}

/// Writes steps as a flowchart for Mermaid.
///
/// See [`svg`] for an example.
///
/// # Errors
///
/// [`TooManySteps`].
pub fn mermaid(steps: &[DrawnStep]) -> Result<String, TooManySteps> {
    fits(steps)?;
    Ok(mermaid::written(steps))
}

fn fits(steps: &[DrawnStep]) -> Result<(), TooManySteps> {
    if steps.len() > MOST_STEPS { Err(TooManySteps { steps: steps.len() }) } else { Ok(()) }
}

/// The pairs of a predecessor and its successor, by their positions.
fn edges(steps: &[DrawnStep]) -> Vec<(usize, usize)> {
    let position: std::collections::HashMap<_, _> =
        steps.iter().enumerate().map(|(at, step)| (step.name.as_str(), at)).collect();
    let of_step = |(to, step): (usize, &DrawnStep)| -> Vec<_> {
        step.after.iter().filter_map(|name| Some((*position.get(name.as_str())?, to))).collect()
    };
    steps.iter().enumerate().flat_map(of_step).collect()
}

//! The axis of a chart: round numbers that span zero and all figures.

use crate::caption::grouped;

/// An axis between its first and its last tick.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) ticks: Vec<f64>,
    step: f64,
}

/// Approximate number of steps of an axis.
const STEPS: f64 = 5.0;

impl Axis {
    /// Creates an axis that spans all values, in steps of 1, 2 or 5 times a power of ten.
    pub(crate) fn spanning(values: impl Iterator<Item = f64>) -> Self {
        let (least, greatest) =
            values.fold((0.0, 0.0), |(least, greatest): (f64, f64), value| (least.min(value), greatest.max(value)));
        let greatest = if greatest > least { greatest } else { 1.0 };
        let step = round_step((greatest - least) / STEPS);
        let first = (least / step).floor();
        let count = ((greatest / step).ceil() - first) as u32;
        let ticks = (0..=count).map(|tick| (first + f64::from(tick)) * step).collect();
        Self { ticks, step }
    }

    /// Returns the position of a value between the ends, from 0 to 1.
    pub(crate) fn position(&self, value: f64) -> f32 {
        let (first, last) = (self.ticks.first().copied().unwrap_or(0.0), self.ticks.last().copied().unwrap_or(1.0));
        ((value - first) / (last - first)) as f32
    }

    /// Returns the label of a tick: `250`, `1.5M`, `0.02`.
    pub(crate) fn label(&self, tick: f64) -> String {
        let greatest = self.ticks.iter().fold(0.0_f64, |most, tick| most.max(tick.abs()));
        let units = [(1e12, 1e12, "T"), (1e9, 1e9, "bn"), (1e6, 1e6, "M"), (1e4, 1e3, "k")];
        let fitting = units.into_iter().find(|(least, ..)| greatest >= *least);
        let (unit, sign) = fitting.map_or((1.0, ""), |(_, unit, sign)| (unit, sign));
        let decimals = (-(self.step / unit).log10().floor()).clamp(0.0, 12.0) as usize;
        let number = format!("{:.decimals$}", tick / unit);
        if tick == 0.0 { "0".to_owned() } else { grouped(&number) + sign }
    }
}

fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64]) -> Vec<String> {
        let axis = Axis::spanning(values.iter().copied());
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_span_zero_and_all_values() {
        for (values, expected) in [
            (&[15_389_869.0, 270_000.0][..], &["0", "5M", "10M", "15M", "20M"][..]),
            (&[3.0, 4.7], &["0", "1", "2", "3", "4", "5"]),
            (&[0.013], &["0", "0.005", "0.010", "0.015"]),
            (&[-4.0, 7.0], &["-5", "0", "5", "10"]),
            (&[-30.0, -10.0], &["-30", "-20", "-10", "0"]),
            (&[0.0], &["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (&[12_000.0], &["0", "5k", "10k", "15k"]),
            (&[3_400.0], &["0", "1,000", "2,000", "3,000", "4,000"]),
            (&[], &["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ] {
            assert_eq!(labels(values), expected, "{values:?}");
        }
    }
}

//! What came of a run.

/// What came of a run. Times are in seconds.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From publish, or from the end of a delay, to the start of the attempt.
    pub waits: Spread,
    /// When the last attempt ended.
    pub ended: f64,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Attempts that failed and came back.
    pub retried: u64,
    /// Jobs that were given up.
    pub dead: u64,
    /// The share of the places for attempts that was taken, 0 to 1.
    pub busy: f64,
    /// The share of its time that the queue's leader worked, 0 to 1.
    pub leader_busy: f64,
    /// The most and, over time, the mean number of workers.
    pub workers: (u32, f64),
    /// The most jobs at once that no worker had.
    pub longest_queue: u64,
    /// When the queue was empty for the first time after it was at its longest.
    pub caught_up: Option<f64>,
}

/// Numbers, of which there are too many to keep apart: each is within 1 % of what it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// How many fell into each step of 1 % from [`SMALLEST`] on.
    counts: Vec<u64>,
    count: u64,
    sum: f64,
    largest: f64,
}

/// Everything below it, a tenth of a millisecond, is taken for nothing.
const SMALLEST: f64 = 1e-4;
const STEP: f64 = 1.01;

impl Spread {
    /// Adds one.
    pub fn add(&mut self, number: f64) {
        let step = if number <= SMALLEST { 0 } else { (number / SMALLEST).log(STEP).ceil() as usize };
        if step >= self.counts.len() {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.count += 1;
        self.sum += number;
        self.largest = self.largest.max(number);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; 0 of none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The largest; 0 of none.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.largest
    }

    /// The smallest number that this share of them, 0 to 1, does not exceed; 0 of none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return if step == 0 { 0.0 } else { (SMALLEST * STEP.powi(step as i32)).min(self.largest) };
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_one_percent() {
        let mut spread = Spread::default();
        assert_eq!((spread.quantile(0.5), spread.mean(), spread.largest()), (0.0, 0.0, 0.0));
        (1..=10_000).for_each(|number| spread.add(f64::from(number) / 1_000.0));
        for (share, wanted) in [(0.5, 5.0), (0.95, 9.5), (0.999, 9.99), (1.0, 10.0)] {
            let seen = spread.quantile(share);
            assert!((seen / wanted - 1.0).abs() < 0.0101, "{share}: {seen}");
        }
        assert!((spread.mean() - 5.0005).abs() < 1e-9 && spread.count() == 10_000);
        let mut none = Spread::default();
        none.add(0.0);
        assert_eq!(none.quantile(0.99), 0.0);
    }
}

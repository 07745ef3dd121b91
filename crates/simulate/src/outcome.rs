//! The outcome of a run.

/// The outcome of a run. Times are in seconds.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The waits of attempts: from publish, or from the end of a delay, to the start.
    pub waits: Histogram,
    /// The end of the last attempt.
    pub ended: f64,
    /// Succeeded jobs.
    pub succeeded: u64,
    /// Failed attempts that were retried.
    pub retried: u64,
    /// Dead-lettered jobs.
    pub dead: u64,
    /// The utilisation of the slots, 0 to 1.
    pub busy: f64,
    /// The utilisation of the queue's leader, 0 to 1.
    pub leader_busy: f64,
    /// The maximum and the mean number of workers.
    pub workers: (u32, f64),
    /// The longest queue: jobs without a worker at one time.
    pub longest_queue: u64,
    /// The time at which the queue was first empty after its peak.
    pub caught_up: Option<f64>,
}

/// A histogram of numbers, accurate to 1 %.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// The counts of the buckets, which grow by 1 % from [`SMALLEST`] on.
    counts: Vec<u64>,
    count: u64,
    sum: f64,
    largest: f64,
}

/// A tenth of a millisecond. Smaller numbers count as zero.
const SMALLEST: f64 = 1e-4;
const STEP: f64 = 1.01;

impl Histogram {
    /// Adds a number.
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

    /// The count of numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, 0 without numbers.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The largest number, 0 without numbers.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.largest
    }

    /// The quantile `share`, from 0 to 1. 0 without numbers.
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
        let mut spread = Histogram::default();
        assert_eq!((spread.quantile(0.5), spread.mean(), spread.largest()), (0.0, 0.0, 0.0));
        (1..=10_000).for_each(|number| spread.add(f64::from(number) / 1_000.0));
        for (share, wanted) in [(0.5, 5.0), (0.95, 9.5), (0.999, 9.99), (1.0, 10.0)] {
            let seen = spread.quantile(share);
            assert!((seen / wanted - 1.0).abs() < 0.0101, "{share}: {seen}");
        }
        assert!((spread.mean() - 5.0005).abs() < 1e-9 && spread.count() == 10_000);
        let mut none = Histogram::default();
        none.add(0.0);
        assert_eq!(none.quantile(0.99), 0.0);
    }
}

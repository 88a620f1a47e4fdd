//! Medians, percentiles and spread.

use std::fmt;

use serde::Serialize;

/// One measured quantity.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// Unit of the values.
    pub(crate) unit: &'static str,
    /// Samples.
    pub(crate) n: usize,
    /// Smallest.
    pub(crate) min: f64,
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile; the largest below 100 samples.
    pub(crate) p99: f64,
    /// Largest.
    pub(crate) max: f64,
    /// What we aim at, in words.
    pub(crate) goal: &'static str,
}

impl Row {
    /// Summarises samples.
    ///
    /// # Panics
    /// Without a sample there is nothing to summarise.
    pub(crate) fn of(
        name: impl Into<String>,
        unit: &'static str,
        goal: &'static str,
        mut v: Vec<f64>,
    ) -> Self {
        v.sort_by(f64::total_cmp);
        let at = |percent: usize| v[(v.len() * percent / 100).min(v.len() - 1)];
        Self {
            name: name.into(),
            unit,
            n: v.len(),
            min: v[0],
            p50: at(50),
            p99: at(99),
            max: v[v.len() - 1],
            goal,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, n, min, p50, p99, max, goal } = self;
        write!(
            f,
            "{name:51} {unit:5} n={n:<4} min {min:9.2}  p50 {p50:9.2}  p99 {p99:9.2}  max {max:9.2}  (goal: {goal})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let row = Row::of("x", "ms", "", (1..=100).rev().map(f64::from).collect());
        assert_eq!((row.min, row.p50, row.p99, row.max), (1.0, 51.0, 100.0, 100.0));
        let one = Row::of("x", "ms", "", vec![7.0]);
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
    }
}

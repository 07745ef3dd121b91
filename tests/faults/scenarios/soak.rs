//! Faults in random order, some of them before the recovery from the last one.

use crate::{
    fault::Fault,
    stage::{Cast, Stage},
};

pub(crate) async fn everything_at_random(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let (mut faults, mut unnoticed) = (Fault::ALL.to_vec(), 0);
    for _ in 0..stage.size.soaks {
        stage.random.shuffle(&mut faults);
        for fault in &faults {
            stage.play().await;
            let mut struck = stage.strike(*fault).await?;
            // Faults without a recovery yet may still have to be noticed.
            unnoticed = unnoticed.max(struck.knowable);
            if stage.random.bool() {
                struck.knowable = unnoticed;
                stage.recovered(&mut struck).await?;
            }
        }
    }
    stage.flowing().await?;
    stage.finish().await
}

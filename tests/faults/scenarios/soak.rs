//! Faults in random order, some of them before the last one is recovered from.

use crate::{
    fault::Fault,
    stage::{Cast, Stage},
};

pub(crate) async fn everything_at_random(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let mut faults = Fault::ALL.to_vec();
    for _ in 0..stage.size.soaks {
        stage.random.shuffle(&mut faults);
        for fault in &faults {
            stage.play().await;
            let struck = stage.strike(*fault).await?;
            if stage.random.bool() {
                stage.recovered(&struck).await?;
            }
        }
    }
    stage.flowing().await?;
    stage.finish().await
}

//! Operators: the list, reset and skip.

use std::time::Duration;

use leveret_harness::{Database, eventually};
use leveret_sql::Error;

use super::stage::{LONG, Set, Stage, of};

leveret_harness::on_both_databases! {
    a_reset_rebuilds_the_view_of_a_projection_that_runs,
    a_projection_that_never_ran_is_named_in_the_error,
}

async fn a_reset_rebuilds_the_view_of_a_projection_that_runs(database: Database) {
    let stage = Stage::new(database).await;
    stage.emit_all(0..10).await;
    let running = stage.run(Set { batch: 3, lease: Duration::from_secs(1), ..Set::default() });
    stage.shows(0..10).await;
    stage.pool.run("UPDATE revenue SET cents = 0").await;
    stage.projections.reset("revenue", &stage.broker, false).await.unwrap();
    stage.shows(0..10).await;
    // The same ids are no repeats after a reset.
    let applied = async || stage.status().await.applied == 10;
    eventually("all are applied again", LONG, applied).await;
    running.stop().await.unwrap();
    assert_eq!(stage.view().await, of(0..10));
}

async fn a_projection_that_never_ran_is_named_in_the_error(database: Database) {
    let stage = Stage::new(database).await;
    let errors = [
        stage.projections.reset("nothing", &stage.broker, false).await.unwrap_err(),
        stage.projections.skip("nothing", 1).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::NoProjection { .. }) && error.to_string().contains("\"nothing\""), "{error}");
    }
    assert_eq!(stage.projections.list().await.unwrap(), []);
}

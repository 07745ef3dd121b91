//! The typed result of a handler.

use leveret::{Context, Handler, JobResult, Worker, status_update::Transition, testing};
use serde::Serialize;
use serde_json::json;

use super::{Act, Place, Task, listening, reported};

on_both_brokers!(the_result_of_a_handler_that_is_a_type_is_published);

async fn the_result_of_a_handler_that_is_a_type_is_published(place: Place) {
    struct Printer(u32);

    #[derive(Serialize)]
    struct Printed {
        pages: u32,
    }

    impl Handler<Task, ()> for Printer {
        type Output = Printed;

        async fn handle(&self, _: Task, _: Context<()>) -> JobResult<Printed> {
            Ok(Printed { pages: self.0 })
        }
    }
    let mut feed = listening(&place).await;
    let running = testing::start(Worker::new(()).handle(Printer(7)), &place.broker).await.unwrap();
    let id = place.broker.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
    let events = reported(&mut feed, id.as_str(), &["received", "started", "succeeded"]).await;
    let result = Some(json!({"pages": 7}));
    assert_eq!(events.last().unwrap().transition, Transition::Succeeded { result, too_large: None });
    running.stop().await.unwrap();
}

use super::*;
use crate::{job::JobId, message::Message, transport::clock::Now};

const SECOND: Duration = Duration::from_secs(1);

fn received(id: &str, body: &str) -> Arc<Incoming> {
    let message = Message::new("j", &JobId::from(id), body.as_bytes().to_vec(), 0);
    Arc::new(Incoming::read(message, true, Now::at(0)))
}

#[test]
fn a_redelivery_of_a_running_job_is_adopted_once() {
    let mut redeliveries = Redeliveries::new(10, SECOND);
    let job = received("a", "{}");
    assert_eq!(redeliveries.recognise(&job), None);
    redeliveries.channel_lost(0, [(7, &*job)].into_iter());
    assert_eq!(redeliveries.recognise(&received("a", "[]")), None);
    assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Running(7)));
    assert_eq!(redeliveries.recognise(&job), None);
}

#[test]
fn jobs_that_have_one_id_and_differ_in_anything_are_not_taken_for_each_other() {
    let with = |name: &str, body: String, header: &str| {
        let mut message = Message::new(name, &JobId::from("order-17"), body.into_bytes(), 0);
        message.set_header("tenant", AMQPValue::LongString(header.into()));
        Arc::new(Incoming::read(message, true, Now::at(0)))
    };
    let long = |middle: &str| format!("{}{middle}{}", "x".repeat(4_000), "x".repeat(4_000));
    let done = with("receipt", long("a"), "one");
    let mut again = with("receipt", long("a"), "one");
    let message = &mut Arc::get_mut(&mut again).unwrap().message;
    message.set_header(header::DELIVERY_COUNT, crate::message::integer(1));
    message.set_header(header::ORIGINAL, AMQPValue::LongString("with that count".into()));
    for other in
        [with("invoice", long("a"), "one"), with("receipt", long("b"), "one"), with("receipt", long("a"), "two")]
    {
        let mut redeliveries = Redeliveries::new(10, SECOND);
        redeliveries.acked(&done);
        redeliveries.channel_lost(0, std::iter::empty());
        assert_eq!(redeliveries.recognise(&other), None);
        assert_eq!(redeliveries.recognise(&again), Some(Redelivered::Settled(Settlement::Ack)));
    }
}

#[test]
fn requests_of_two_callers_are_not_taken_for_each_other() {
    let asked = |correlation: &str| {
        let mut message = Message::new("quote", &JobId::from("order-17"), b"{}".to_vec(), 0);
        let properties = std::mem::take(&mut message.properties);
        message.properties =
            properties.with_reply_to("leveret.v1.reply.a".into()).with_correlation_id(correlation.into());
        Arc::new(Incoming::read(message, true, Now::at(0)))
    };
    let mut redeliveries = Redeliveries::new(10, SECOND);
    redeliveries.acked(&asked("1"));
    redeliveries.channel_lost(0, std::iter::empty());
    assert_eq!(redeliveries.recognise(&asked("2")), None);
    assert_eq!(redeliveries.recognise(&asked("1")), Some(Redelivered::Settled(Settlement::Ack)));
}

#[test]
fn small_and_large_jobs_are_recognised_and_only_small_ones_are_kept() {
    for (body, is_kept) in ["x".repeat(SMALL), "x".repeat(SMALL + 1)].into_iter().zip([true, false]) {
        let mut redeliveries = Redeliveries::new(10, SECOND);
        let job = received("a", &body);
        redeliveries.acked(&job);
        assert_eq!(Arc::strong_count(&job) == 2, is_kept);
        redeliveries.channel_lost(0, std::iter::empty());
        assert_eq!(Arc::strong_count(&job), 1, "after the loss its key is enough");
        assert_eq!(redeliveries.recognise(&received("a", &body)), Some(Redelivered::Settled(Settlement::Ack)));
    }
}

#[test]
fn a_lost_ack_is_sent_when_the_job_comes_back() {
    let mut redeliveries = Redeliveries::new(2, SECOND);
    let (first, second, third) = (received("1", "{}"), received("2", "{}"), received("3", "{}"));
    [&first, &second, &third].into_iter().for_each(|job| redeliveries.acked(job));
    redeliveries.channel_lost(0, std::iter::empty());
    assert_eq!(redeliveries.recognise(&first), None, "the broker can have lost two acks at most");
    assert_eq!(redeliveries.recognise(&second), Some(Redelivered::Settled(Settlement::Ack)));
    assert_eq!(redeliveries.recognise(&second), None);
    assert_eq!(redeliveries.recognise(&third), Some(Redelivered::Settled(Settlement::Ack)));
}

#[test]
fn an_ack_that_has_arrived_is_not_awaited() {
    let mut redeliveries = Redeliveries::new(9, SECOND);
    let (first, second) = (received("1", "{}"), received("2", "{}"));
    [&first, &second].into_iter().for_each(|job| redeliveries.acked(job));
    redeliveries.channel_lost(1, std::iter::empty());
    assert_eq!(redeliveries.recognise(&first), None, "another job with its id");
    assert_eq!(redeliveries.recognise(&second), Some(Redelivered::Settled(Settlement::Ack)));
    redeliveries.acked(&first);
    redeliveries.channel_lost(1, std::iter::empty());
    assert_eq!(redeliveries.recognise(&first), None, "each channel counts its own acks");
}

#[test]
fn of_jobs_that_have_one_id_as_many_are_settled_as_acks_may_be_lost() {
    let mut redeliveries = Redeliveries::new(9, SECOND);
    let job = received("tick", "{}");
    (0..3).for_each(|_| redeliveries.acked(&job));
    redeliveries.channel_lost(1, std::iter::empty());
    let settled = (0..5).filter(|_| redeliveries.recognise(&job).is_some()).count();
    assert_eq!((settled, redeliveries.owed_order.len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_lost_again_and_again_do_not_keep_what_is_owed() {
    let mut redeliveries = Redeliveries::new(2, SECOND);
    let job = received("tick", "{}");
    redeliveries.acked(&job);
    for _ in 0..2 {
        redeliveries.channel_lost(0, std::iter::empty());
        redeliveries.channel_opened();
        tokio::time::advance(AWAITED + 4 * SECOND).await;
    }
    redeliveries.channel_lost(0, std::iter::empty());
    redeliveries.channel_opened();
    assert_eq!(redeliveries.recognise(&job), None);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_an_old_id_long_after_is_another_job() {
    let mut redeliveries = Redeliveries::new(2, SECOND);
    let job = received("tick", "{}");
    redeliveries.acked(&job);
    redeliveries.channel_lost(0, std::iter::empty());
    redeliveries.channel_opened();
    tokio::time::advance(AWAITED + 4 * SECOND).await;
    assert_eq!(redeliveries.recognise(&job), None);
}

#[test]
fn an_orphan_that_ends_leaves_its_settlement() {
    let mut redeliveries = Redeliveries::new(2, SECOND);
    let job = received("a", "{}");
    redeliveries.channel_lost(0, [(1, &*job)].into_iter());
    redeliveries.ended(1, &job, Settlement::Reject);
    assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Settled(Settlement::Reject)));
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nothing_could_be_taken_does_not_count() {
    let mut redeliveries = Redeliveries::new(1, SECOND);
    let job = received("long", "{}");
    redeliveries.channel_lost(0, [(1, &*job)].into_iter());
    redeliveries.channel_opened();
    tokio::time::advance(Duration::from_secs(600)).await;
    redeliveries.ended(1, &job, Settlement::Ack);
    redeliveries.resumed();
    assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Settled(Settlement::Ack)));
}

#[test]
fn a_request_is_recognised_and_not_kept_because_it_holds_its_result() {
    let mut message = Message::new("quote", &JobId::from("a"), b"{}".to_vec(), 0);
    message.properties = std::mem::take(&mut message.properties).with_reply_to("leveret.v1.reply.a".into());
    let request = Arc::new(Incoming::read(message.clone(), true, Now::at(0)));
    request.keep_result(&"x".repeat(1_000_000));
    let mut redeliveries = Redeliveries::new(10, SECOND);
    redeliveries.acked(&request);
    assert_eq!(Arc::strong_count(&request), 1);
    redeliveries.channel_lost(0, std::iter::empty());
    let again = Incoming::read(message, true, Now::at(0));
    assert_eq!(redeliveries.recognise(&again), Some(Redelivered::Settled(Settlement::Ack)));
}

#[test]
fn memory_of_settlements_is_bounded() {
    let mut redeliveries = Redeliveries::new(2, SECOND);
    for number in 0..REMEMBERED + 5 {
        redeliveries.ended(0, &received(&number.to_string(), ""), Settlement::Ack);
    }
    assert_eq!((redeliveries.owed.len(), redeliveries.owed_order.len()), (REMEMBERED, REMEMBERED));
    assert_eq!(redeliveries.recognise(&received("4", "")), None);
    assert!(redeliveries.recognise(&received("5", "")).is_some());
}

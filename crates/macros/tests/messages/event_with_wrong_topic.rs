use leveret_macros::Event;

#[derive(Event)]
#[event(topic = "order.*")]
struct Any;

#[derive(Event)]
#[event(topic = "leveret.order")]
struct Reserved;

#[derive(Event)]
#[event(topic = "order..placed")]
struct Empty;

const TOPIC: &str = "order.placed";

#[derive(Event)]
#[event(topic = TOPIC)]
struct Constant;

#[derive(Event)]
#[event(topic = "a", topic = "b")]
struct Twice;

fn main() {}

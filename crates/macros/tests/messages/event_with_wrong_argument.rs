use leveret_macros::Event;

#[derive(Event)]
#[event(name = "order.placed")]
struct OrderPlaced;

#[derive(Event)]
#[event(topic = "order.placed")]
struct Borrowed<'a> {
    order: &'a str,
}

#[derive(Event)]
#[event(topic = "order.placed")]
struct Misplaced {
    #[event(topic = "order.placed")]
    order: String,
}

fn main() {}

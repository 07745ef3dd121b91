use leveret_macros::Event;

#[derive(Event)]
struct OrderPlaced;

#[derive(Event)]
#[event(crate = leveret)]
struct OrderSent;

fn main() {}

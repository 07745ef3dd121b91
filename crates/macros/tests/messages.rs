//! The compiler's messages for a wrong `#[job(…)]`. The texts are part of the interface: a user reads them before any
//! page.

#[test]
fn a_wrong_attribute_is_an_error_at_its_place_with_the_way_out() {
    trybuild::TestCases::new().compile_fail("tests/messages/*.rs");
}

use serde_json::json;

use super::{ConfirmationError, OrderConfirmation};
use crate::compose::MailDraft;

fn order(value: serde_json::Value) -> OrderConfirmation {
    serde_json::from_value(value).unwrap()
}

fn sample() -> serde_json::Value {
    json!({
        "id": "A-1001",
        "customer": {"name": "Zoë O'Brien <b>", "email": "zoe@example.org"},
        "lines": [
            {"sku": "TEA-1", "description": "Green tea & <script>alert(1)</script>", "quantity": 3, "unit_price_cents": 450},
            {"sku": "CUP-2", "description": "湯呑み 🍵", "quantity": 1, "unit_price_cents": 1999},
        ],
        "currency": "EUR",
        "shipping_cents": 499,
        "tax_cents": 731,
        "total_cents": 4579,
    })
}

fn confirm(value: serde_json::Value) -> Result<MailDraft, ConfirmationError> {
    order(value).draft()
}

#[test]
fn both_parts_state_every_line_and_the_total() {
    let draft = confirm(sample()).unwrap();
    assert_eq!(draft.subject, "Order A-1001 confirmed");
    let html = draft.html.unwrap();
    for part in [&draft.text, &html] {
        for value in [
            "A-1001",
            "TEA-1",
            "CUP-2",
            "湯呑み 🍵",
            "4.50 EUR",
            "13.50 EUR",
            "19.99 EUR",
            "4.99 EUR",
            "7.31 EUR",
            "45.79 EUR",
        ] {
            assert!(part.contains(value), "{value} is missing in {part}");
        }
    }
    assert!(draft.text.contains("  3 x Green tea & <script>alert(1)</script> (TEA-1)\n"), "{}", draft.text);
}

#[test]
fn html_in_an_order_is_shown_and_not_run() {
    let html = confirm(sample()).unwrap().html.unwrap();
    assert!(!html.contains("<script"), "{html}");
    assert!(!html.contains("<b>"), "{html}");
    assert!(html.contains("&#60;script&#62;"), "{html}");
}

#[test]
fn a_value_cannot_add_lines_to_the_text() {
    let mut value = sample();
    value["lines"][0]["description"] = json!("Tea\n  Total: 0.00 EUR");
    value["customer"]["name"] = json!("Eve\r\n\r\nYou won");
    let text = confirm(value).unwrap().text;
    assert!(text.starts_with("Hello Eve You won,\n"), "{text}");
    assert!(text.contains("3 x Tea Total: 0.00 EUR (TEA-1)"), "{text}");
}

#[test]
fn the_digits_follow_the_currency() {
    let mut value = sample();
    value["currency"] = json!("JPY");
    assert!(confirm(value.clone()).unwrap().text.contains("Total: 4,579 JPY"));
    value["currency"] = json!("BHD");
    assert!(confirm(value).unwrap().text.contains("Total: 4.579 BHD"));
}

#[test]
fn a_discount_is_a_line_with_a_negative_price() {
    let mut value = sample();
    value["lines"]
        .as_array_mut()
        .unwrap()
        .push(json!({"sku": "VOUCHER", "description": "Voucher", "quantity": 1, "unit_price_cents": -579}));
    value["total_cents"] = json!(4000);
    let text = confirm(value).unwrap().text;
    assert!(text.contains("-5.79 EUR") && text.contains("Total: 40.00 EUR"), "{text}");
}

#[test]
fn shipping_and_tax_may_be_absent() {
    let mut value = sample();
    let fields = value.as_object_mut().unwrap();
    fields.remove("shipping_cents");
    fields.insert("tax_cents".to_owned(), json!(null));
    fields.insert("total_cents".to_owned(), json!(3349));
    let draft = confirm(value).unwrap();
    assert!(!draft.text.contains("Shipping") && !draft.text.contains("Tax"), "{}", draft.text);
}

#[test]
fn a_wrong_total_names_both_numbers() {
    let mut value = sample();
    value["total_cents"] = json!(4580);
    let message = confirm(value).unwrap_err().to_string();
    assert!(message.contains("4580") && message.contains("4579"), "{message}");
}

#[test]
fn what_cannot_be_confirmed_is_named() {
    let cases = [
        ("/currency", json!("eur"), "\"eur\""),
        ("/lines", json!([]), "no lines"),
        ("/lines/1/quantity", json!(0), "line 2 (\"CUP-2\")"),
        ("/lines/0/unit_price_cents", json!(i64::MAX), "line 1 (\"TEA-1\") is too large"),
        ("/shipping_cents", json!(i64::MAX), "is too large"),
    ];
    for (field, wrong, expected) in cases {
        let mut value = sample();
        *value.pointer_mut(field).unwrap() = wrong;
        let message = confirm(value).unwrap_err().to_string();
        assert!(message.contains(expected), "{field}: {message}");
    }
}

#[test]
fn an_invalid_address_is_named_in_the_source() {
    let mut value = sample();
    value["customer"]["email"] = json!("zoe at example.org");
    let error = confirm(value).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("zoe at example.org"), "{source}");
}

#[test]
fn unknown_fields_and_floats_are_refused() {
    for field in ["/coupon", "/customer/phone", "/lines/0/discount"] {
        let (parent, name) = field.rsplit_once('/').unwrap();
        let mut value = sample();
        value.pointer_mut(parent).unwrap()[name] = json!("x");
        let message = serde_json::from_value::<OrderConfirmation>(value).unwrap_err().to_string();
        assert!(message.contains(&format!("unknown field `{name}`")), "{message}");
    }
    let mut value = sample();
    value["total_cents"] = json!(45.79);
    let message = serde_json::from_value::<OrderConfirmation>(value).unwrap_err().to_string();
    assert!(message.contains("floating point `45.79`"), "{message}");
}

#[test]
fn every_order_of_the_demo_can_be_confirmed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/data/orders.jsonl");
    let orders = std::fs::read_to_string(path).unwrap();
    assert!(orders.lines().count() >= 200);
    for line in orders.lines() {
        let order: OrderConfirmation = serde_json::from_str(line).expect(line);
        order.draft().expect(line);
    }
}

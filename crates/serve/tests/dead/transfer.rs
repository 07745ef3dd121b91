//! Exports and imports.

use leveret_serve::dead::transfer::{export, import};
use leveret_store::{AuditStamp, DeadFilter};

use crate::stage::{Stage, all};

#[tokio::test]
async fn what_is_exported_comes_back_byte_for_byte() {
    let stage = Stage::new().await;
    let letters = stage.bury(1..=3).await;
    stage.store.edit(letters[1].id, br#"{"cents": 22}"#, AuditStamp { actor: "anna", at: 5 }).await.unwrap();
    let mut file = Vec::new();
    assert_eq!(export(&stage.store, &DeadFilter::default(), &mut file).await.unwrap(), 3);
    let other = Stage::new().await;
    let imported = import(&other.store, file.as_slice(), "bert").await.unwrap();
    assert_eq!((imported.imported, imported.known, imported.bad), (3, 0, 0));
    for (letter, copy) in letters.iter().zip(other.letters().await) {
        let (letter, copy) = (stage.store.letter(letter.id).await.unwrap(), other.store.letter(copy.id).await.unwrap());
        let (letter, copy) = (letter.unwrap(), copy.unwrap());
        assert_eq!(
            (letter.properties, letter.payload, letter.original),
            (copy.properties, copy.payload, copy.original)
        );
        assert_eq!((letter.about.error, letter.about.failed_at), (copy.about.error, copy.about.failed_at));
    }
    let again = import(&other.store, file.as_slice(), "bert").await.unwrap();
    assert_eq!((again.imported, again.known), (0, 3), "what is here is known");
    other.fix();
    let options = leveret_serve::dead::replay::ReplayOptions::default();
    other.dead().replay(&all(), &options, "bert", |_| ()).await.unwrap();
    assert_eq!(other.charged().await, [1, 3, 22]);
}

#[tokio::test]
async fn bad_lines_are_reported_by_number_and_the_others_imported() {
    let stage = Stage::new().await;
    stage.bury([1, 2]).await;
    let mut file = Vec::new();
    export(&stage.store, &DeadFilter::default(), &mut file).await.unwrap();
    let lines: Vec<_> = std::str::from_utf8(&file).unwrap().lines().collect();
    let broken = lines[1].replace("\"properties\":\"", "\"properties\":\"////");
    let file = format!("{}\n\nnot a letter\n{broken}\n", lines[0]);
    let other = Stage::new().await;
    let imported = import(&other.store, file.as_bytes(), "bert").await.unwrap();
    let bad: Vec<_> = imported.bad_lines.iter().map(|bad| bad.line).collect();
    assert_eq!((imported.imported, imported.bad, bad), (1, 2, vec![3, 4]));
    assert!(imported.bad_lines[1].reason.contains("no properties"), "{imported:?}");
}

//! Loads the rows that the engine asks for, for many workflows with one statement each.

use std::collections::HashMap;

use leveret::workflow::{
    Role,
    engine::{Load, MemberState, StepState},
};
use leveret_sql::{
    Result,
    db::{Row, Sql, TimedConnection},
};
use serde_json::{Value, json};

use super::{
    apply::Work,
    json_rows::{number, rows, table, text},
    row::{MEMBER_COLUMNS, json, member_state, role_number},
};

/// Returns whether the rows are found by their contents, which must be stored first.
pub(super) fn is_list(load: &Load) -> bool {
    matches!(load, Load::Held | Load::Failed(_) | Load::Compensable)
}

/// Puts the rows into the snapshots of their workflows.
pub(super) async fn answer(tx: &mut TimedConnection, works: &mut [Work], loads: Vec<(usize, Load)>) -> Result<()> {
    let place: HashMap<_, _> = works.iter().enumerate().map(|(at, work)| (work.key, at)).collect();
    let (mut steps, mut members, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for (at, load) in loads {
        match load {
            Load::Step(name) => steps.push((at, name)),
            Load::Member(step, member) => members.push((at, step, member)),
            list => lists.push((at, list)),
        }
    }
    if !steps.is_empty() {
        let wanted: Vec<_> = steps.iter().map(|(at, name)| json!([works[*at].key, name])).collect();
        for row in steps_by_name(tx, &wanted).await? {
            put_step(works, &place, &row)?;
        }
        // Marks the names that no step has. A step that was found stays.
        steps.iter().for_each(|(at, name)| works[*at].snapshot.put_step(name, None));
    }
    if !members.is_empty() {
        let mut names = HashMap::new();
        let mut wanted = Vec::with_capacity(members.len());
        for (at, step, member) in &members {
            let work = &works[*at];
            if let Some(position) = work.positions.get(step) {
                names.insert((work.key, *position), step.as_str());
                wanted.push(json!([work.key, position, role_number(Role::Step), member]));
            }
        }
        for row in members_by_key(tx, &wanted).await? {
            let (key, position): (i64, i64) = (row.try_get("workflow")?, row.try_get("step")?);
            if let (Some(at), Some(step)) = (place.get(&key), names.get(&(key, position))) {
                works[*at].snapshot.put_member(step, row.number("member")?, member_state(&row)?);
            }
        }
        for (at, step, member) in &members {
            works[*at].snapshot.put_member(step, *member, MemberState::default());
        }
    }
    for (at, list) in lists {
        load_list(tx, works, &place, at, &list).await?;
        works[at].snapshot.loaded(&list);
    }
    Ok(())
}

async fn steps_by_name(tx: &mut TimedConnection, wanted: &[Value]) -> Result<Vec<Row>> {
    let dialect = tx.dialect();
    // CROSS JOIN makes SQLite read the list first.
    let sql = Sql::new(format!(
        "SELECT s.workflow, s.position, s.state FROM {} CROSS JOIN leveret_workflow_steps AS s
         WHERE s.workflow = {} AND s.name = {}",
        table(dialect),
        number(dialect, 0),
        text(dialect, 1)
    ));
    sql.arg(rows(wanted)).rows(tx).await
}

/// All columns of the key come from the list. Otherwise PostgreSQL reads each member of a group for every one in the list.
async fn members_by_key(tx: &mut TimedConnection, wanted: &[Value]) -> Result<Vec<Row>> {
    let dialect = tx.dialect();
    let number = |column| number(dialect, column);
    let sql = Sql::new(format!(
        "SELECT {MEMBER_COLUMNS} FROM {} CROSS JOIN leveret_workflow_jobs AS j
         WHERE j.workflow = {} AND j.step = {} AND j.role = {} AND j.member = {}",
        table(dialect),
        number(0),
        number(1),
        number(2),
        number(3)
    ));
    sql.arg(rows(wanted)).rows(tx).await
}

async fn load_list(
    tx: &mut TimedConnection,
    works: &mut [Work],
    place: &HashMap<i64, usize>,
    at: usize,
    list: &Load,
) -> Result<()> {
    let key = works[at].key;
    let steps = |and: &str| {
        let text = format!("SELECT workflow, position, state FROM leveret_workflow_steps WHERE workflow = $1 {and}");
        Sql::new(text).arg(key)
    };
    let found = match list {
        Load::Held => steps("AND phase = 'held' ORDER BY position").rows(tx).await?,
        Load::Compensable => steps("AND compensable IS NOT NULL ORDER BY compensable DESC LIMIT 1").rows(tx).await?,
        Load::Failed(of) => {
            let mut sql = Sql::new(format!(
                "SELECT s.name, {MEMBER_COLUMNS} FROM leveret_workflow_jobs AS j
                 JOIN leveret_workflow_steps AS s ON s.workflow = j.workflow AND s.position = j.step
                 WHERE j.workflow = $1 AND j.outcome = 'failed' AND j.role = 0"
            ))
            .arg(key);
            if let Some(of) = of {
                sql.push(" AND s.name = ").bind(of.as_str());
            }
            for row in sql.rows(tx).await? {
                put_member(works, place, &row)?;
            }
            return Ok(());
        }
        Load::Step(_) | Load::Member(..) => Vec::new(),
    };
    found.iter().try_for_each(|row| put_step(works, place, row))
}

fn put_step(works: &mut [Work], place: &HashMap<i64, usize>, row: &Row) -> Result<()> {
    let key: i64 = row.try_get("workflow")?;
    let (Some(at), state) = (place.get(&key), json::<StepState>(row, "state")?) else { return Ok(()) };
    let work = &mut works[*at];
    work.positions.insert(state.name.clone(), row.try_get("position")?);
    let name = state.name.clone();
    work.snapshot.put_step(&name, Some(state));
    Ok(())
}

fn put_member(works: &mut [Work], place: &HashMap<i64, usize>, row: &Row) -> Result<()> {
    let key: i64 = row.try_get("workflow")?;
    let Some(at) = place.get(&key) else { return Ok(()) };
    let (step, work): (&str, _) = (row.try_get("name")?, &mut works[*at]);
    work.positions.insert(step.to_owned(), row.try_get("step")?);
    work.snapshot.put_member(step, row.number("member")?, member_state(row)?);
    Ok(())
}

//! What belongs to a task.

restored! {
    name_with_parentheses;
}

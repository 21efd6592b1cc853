"""nbgrader's settings, read by `nbgrader` in this folder and by `make assignments` and `make grade`."""

c = get_config()  # type: ignore[name-defined]  # noqa: F821  # nbgrader puts it here

c.CourseDirectory.course_id = "radin"
c.ClearSolutions.code_stub = {
    "python": '# YOUR CODE HERE\nraise NotImplementedError("Not written yet: put your own code here.")',
}
c.ClearSolutions.text_stub = "YOUR ANSWER HERE"
c.Execute.timeout = 120  # seconds for one cell; the first may train a zoo

"""The registry of functions that a forked child calls: their order, and what happens if one of them fails."""

from __future__ import annotations

from _capabilities import needs_fork

pytestmark = needs_fork


def test_functions_run_by_their_order_and_then_as_registered(fresh_python) -> None:
    printed = fresh_python(
        """
        import os
        from shoal._forks import BACKENDS, CALLERS, after_fork_in_child

        called = []
        for name, order in ("first caller", CALLERS), ("backend", BACKENDS), ("second caller", CALLERS):
            after_fork_in_child(lambda name=name: called.append(name), order)
        if os.fork() == 0:
            print(*called, sep=", ", flush=True)
            os._exit(0)
        os.wait()
        assert called == []
        """
    )
    assert printed == "backend, first caller, second caller\n"


def test_a_function_that_fails_is_reported_and_stops_no_other(fresh_python) -> None:
    printed = fresh_python(
        """
        import os, sys
        from shoal._forks import BACKENDS, CALLERS, after_fork_in_child

        sys.unraisablehook = lambda args: print(repr(args.exc_value), repr(args.exc_value.__context__))
        after_fork_in_child(lambda: [][0], BACKENDS)
        after_fork_in_child(lambda: 1 / 0, BACKENDS)
        after_fork_in_child(lambda: print("called"), CALLERS)
        if os.fork() == 0:
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        """
    )
    assert printed.splitlines() == [
        "called",
        "ZeroDivisionError('division by zero') IndexError('list index out of range')",
    ]


def test_a_renewed_process_forks_without_the_functions(fresh_python) -> None:
    printed = fresh_python(
        """
        import os
        from shoal._forks import BACKENDS, after_fork_in_child, before_fork, renew, without_calls

        called = []
        before_fork(lambda: called.append("before"))
        after_fork_in_child(lambda: called.append("child"), BACKENDS)
        renew()
        assert called == ["child"]
        with without_calls():
            child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                print(*called, flush=True)
            else:
                os.waitpid(grandchild, 0)
            os._exit(0)
        os.waitpid(child, 0)
        assert called == ["child"]
        """
    )
    assert printed == "child before child\n"

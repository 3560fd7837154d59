"""Finds the cause of wrong images on a GPU: ``benchmarks.gpu --find-images-fault``.

The tests T1 to T7 and the graphs P0 to P4 are those of ``docs/gpu.md``.  In reading
order: ``variants`` (the vision network with further outputs), ``graphs`` and
``compile_graphs`` (its compiled graphs), ``vision_side`` (a loaded one), ``comparison``
(figures of two tensors), the tests (``places``, ``lifetimes``, ``stages``,
``containment``, ``selection``), and ``search``, which runs them all.
"""

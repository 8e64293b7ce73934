"""Shared cells from Python: bounds-checked access to one mmap, for readers, the supervisor and tests."""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer

MAGIC = 0x4B_41_49_52_4F_53_30_31  # "KAIROS01"
BOUNDS_US = tuple([kairos_bounds_us[i] for i in range(HIST_BUCKETS - 1)])


@cython.final
cdef class Page:

    def __cinit__(self, object memory):
        PyObject_GetBuffer(memory, &self.view, PyBUF_CONTIG)
        self.base = <int64_t*>self.view.buf
        self.cells = self.view.len // <Py_ssize_t>sizeof(int64_t)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def __len__(self):
        return self.cells

    cdef int64_t* at(self, Py_ssize_t cell, Py_ssize_t count) except NULL:
        if cell < 0 or count < 0 or count > self.cells or cell > self.cells - count:
            raise IndexError(f"cells {cell}..{cell + count} lie outside the shared page of {self.cells} cells")
        return self.base + cell

    def get(self, Py_ssize_t cell):
        return atomic_load(self.at(cell, 1))

    def set(self, Py_ssize_t cell, int64_t value):
        atomic_store(self.at(cell, 1), value)

    def add(self, Py_ssize_t cell, int64_t n):
        """Add atomically; the value before."""
        return atomic_add(self.at(cell, 1), n)

    def observe(self, Py_ssize_t cell, int64_t us):
        """Count a duration into the histogram at `cell`."""
        observe(self.at(cell, HIST_CELLS), us)

    def sums(self, Py_ssize_t cell, Py_ssize_t count, Py_ssize_t stride, Py_ssize_t rows):
        """`count` cells from `cell` on, each summed over `rows` rows that lie `stride` apart."""
        cdef:
            Py_ssize_t row, i
            int64_t* first = self.at(cell, count)
            int64_t total
        if rows < 1 or stride < 0:
            raise IndexError(f"{rows} rows of stride {stride} cannot be summed")
        self.at(cell + (rows - 1) * stride, count)
        sums = []
        for i in range(count):
            total = 0
            for row in range(rows):
                total += atomic_load(first + row * stride + i)
            sums.append(total)
        return sums

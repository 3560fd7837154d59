"""Multiplies made-up matrices some times: `forms REPEATS`.

`KIND` says what: float32, int8, q4_k or q6_k; `WIDTH` and `VNNI` are the form.
"""

from std.memory.alloc import unsafe_alloc
from std.sys import argv
from std.sys.defines import get_defined_bool, get_defined_int, get_defined_string

from float_matmul import FloatPointer as Floats, _multiply
from gguf_matmul.formats import BlockFormat
from gguf_matmul.matmul import Matrix, multiply_group, quantize_activations
from gguf_matmul.q4_k import Q4_K
from gguf_matmul.q6_k import Q6_K
from gguf_matmul.simd import BytePointer as Blocks, Simd
from int8_matmul.matmul import Matrix as Int8Matrix, Output, int8_matmul
from int8_matmul.simd import BytePointer, Simd as Int8Simd

comptime KIND = get_defined_string["KIND"]()
comptime WIDTH = get_defined_int["WIDTH"]()
comptime VNNI = get_defined_bool["VNNI", False]()


def floats(count: Int) -> Floats:
    var values = rebind[Floats](unsafe_alloc[Float32](count, alignment=64))
    for i in range(count):
        values.unsafe_store(i, Float32((i * 7919) % 1237 - 618) / 618)
    return values


def multiply_floats(repeats: Int) raises:
    comptime patches, width, columns = 6432, 1280, 1280
    var x, weights = floats(patches * width), floats(columns * width)
    var result = floats(patches * columns)
    for _ in range(repeats):
        _multiply(x, weights, x, result, patches, width, columns, False, False)


def multiply_int8(repeats: Int):
    comptime patches, width, columns = 6432, 1280, 1280
    var x, scales = floats(patches * width), floats(columns)
    var result = floats(patches * columns)
    var weights = rebind[BytePointer](unsafe_alloc[Int8](columns * width, alignment=64))
    for i in range(columns * width):
        # The sum of three is closer to a normal distribution than one.
        var sum = i * 31 % 255 + i * 47 % 231 + i * 77 % 223 - 353
        weights.unsafe_store(i, Int8(sum // 3))
    for _ in range(repeats):
        int8_matmul[Int8Simd(WIDTH, VNNI), False](
            x,
            patches,
            Int8Matrix(weights, scales, width, columns),
            Output(result, columns, scales, 0),
        )


def multiply_blocks[Format: BlockFormat](repeats: Int):
    comptime tokens, width, columns = 512, 4096, 512
    comptime stride = width // 256 * Format.SUPER_BLOCK_BYTES
    var blocks = rebind[Blocks](unsafe_alloc[UInt8](columns * stride, alignment=64))
    for i in range(columns * stride):
        # Float16 scales are never infinite.
        blocks.unsafe_store(i, UInt8((i * 31 + i // 77) % 0x29))
    var matrix = Matrix(blocks, columns, stride, floats(tokens * columns), columns)
    var activations = quantize_activations(
        floats(tokens * width), tokens, width, width
    )
    for _ in range(repeats):
        for group in range(matrix.groups()):
            for token_block in range(activations.token_blocks()):
                multiply_group[Format, Simd(WIDTH, VNNI)](
                    activations, matrix, group, token_block
                )


def main() raises:
    var repeats = Int(argv()[1])
    comptime if KIND == "float32":
        multiply_floats(repeats)
    elif KIND == "int8":
        multiply_int8(repeats)
    elif KIND == "q4_k":
        multiply_blocks[Q4_K](repeats)
    else:
        multiply_blocks[Q6_K](repeats)

"""Small Python programs that the embedded model can write."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = "solve run compute answer work f calc result process my_func".split()


@dataclass(frozen=True)
class Program:
    """`does_ko` ends in an adnominal form (…하는), `does_en` is a third-person verb phrase."""

    does_ko: str
    does_en: str
    arguments: str
    body: str

    def source(self, name: str) -> str:
        return f"def {name}({self.arguments}):\n    return {self.body}"


PROGRAMS = (
    Program("두 수를 더하는", "adds two numbers", "a, b", "a + b"),
    Program("두 수를 빼는", "subtracts two numbers", "a, b", "a - b"),
    Program("두 수를 곱하는", "multiplies two numbers", "a, b", "a * b"),
    Program("두 수를 나누는", "divides two numbers", "a, b", "a / b"),
    Program("나머지를 구하는", "returns the remainder", "a, b", "a % b"),
    Program("제곱을 구하는", "squares a number", "x", "x * x"),
    Program("세제곱을 구하는", "cubes a number", "x", "x ** 3"),
    Program("두 배를 구하는", "doubles a number", "x", "2 * x"),
    Program("절반을 구하는", "halves a number", "x", "x / 2"),
    Program("부호를 바꾸는", "negates a number", "x", "-x"),
    Program("절댓값을 구하는", "returns the absolute value", "x", "abs(x)"),
    Program("짝수인지 알려 주는", "tells whether a number is even", "n", "n % 2 == 0"),
    Program("홀수인지 알려 주는", "tells whether a number is odd", "n", "n % 2 == 1"),
    Program("더 큰 수를 고르는", "returns the larger number", "a, b", "max(a, b)"),
    Program("더 작은 수를 고르는", "returns the smaller number", "a, b", "min(a, b)"),
    Program("목록의 합을 구하는", "sums a list", "items", "sum(items)"),
    Program("목록의 길이를 구하는", "returns the length of a list", "items", "len(items)"),
    Program("목록의 첫 값을 돌려주는", "returns the first item", "items", "items[0]"),
    Program("목록의 끝 값을 돌려주는", "returns the last item", "items", "items[-1]"),
    Program("목록을 정렬하는", "sorts a list", "items", "sorted(items)"),
    Program("목록을 뒤집는", "reverses a list", "items", "items[::-1]"),
    Program("글자를 대문자로 바꾸는", "makes a text upper case", "text", "text.upper()"),
    Program("글자를 소문자로 바꾸는", "makes a text lower case", "text", "text.lower()"),
    Program("낱말로 나누는", "splits a text into words", "text", "text.split()"),
)

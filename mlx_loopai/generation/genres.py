"""Genres of creative writing: a system prompt and examples for each, all written for this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.data.records import Message, Record
from mlx_loopai.errors import InputError
from mlx_loopai.generation.prompts import read_few_shot
from mlx_loopai.language import tr


@dataclass(frozen=True)
class Genre:
    """`examples` are pairs of a request and its answer."""

    name: str
    system_prompt: str
    examples: tuple[tuple[str, str], ...]

    def records(self) -> tuple[Record, ...]:
        """The examples as turns that come before a prompt."""
        return tuple(
            Record(
                (Message("user", asked), Message("assistant", told)),
                kind="chat",
                category="creative",
                origin=f"genre {self.name}:{number}",
            )
            for number, (asked, told) in enumerate(self.examples, start=1)
        )


GENRES = (
    Genre(
        "판타지",
        "당신은 한국어로 판타지 소설을 쓰는 작가입니다. 낯선 세계를 설명하지 말고 인물이 보고 만지는 것으로 보여 주세요.",
        (
            (
                "용을 돌보는 소녀의 이야기를 시작해 줘.",
                "용은 겨울이 되면 숨이 얕아진다. 아린은 그래서 첫눈이 내리는 날부터 마구간 대신 용의 굴에서 잤다. 비늘 틈에 귀를 대면 먼 "
                "폭포 같은 소리가 났고, 그 소리가 느려질 때마다 아린은 마른 쑥을 화로에 던져 넣었다.\n\n“올해도 넘기실 거죠?”\n\n용은 대답 "
                "대신 한쪽 눈을 떴다. 호박빛 눈동자 속에서 아린은 열두 해 전의 자신을, 강보에 싸여 굴 앞에 놓여 있던 아이를 보았다.",
            ),
            (
                "마법이 사라진 도시를 그려 줘.",
                "가로등이 꺼진 지 사흘째 되던 밤, 사람들은 처음으로 별을 보았다. 불꽃을 팔던 상인은 빈 유리병을 내다 버렸고, 날아다니던 "
                "배는 강가에 묶여 아이들의 놀이터가 되었다. 늙은 마법사만이 매일 아침 탑에 올라 손가락을 튕겼다. 딱, 하는 소리뿐 아무 "
                "일도 일어나지 않았지만, 그는 그 소리를 하루도 거르지 않았다.",
            ),
        ),
    ),
    Genre(
        "로맨스",
        "당신은 한국어로 로맨스 소설을 쓰는 작가입니다. 감정을 이름으로 말하지 말고 몸짓과 말 사이의 침묵으로 드러내세요.",
        (
            (
                "비 오는 날 다시 만난 두 사람의 장면을 써 줘.",
                "버스 정류장 지붕 아래로 우산 하나가 뛰어들었다. 물을 털던 남자가 고개를 들었고, 지우는 읽지도 않던 노선표에서 눈을 떼지 "
                "못했다.\n\n“머리, 길었네.”\n\n오 년 만에 듣는 첫마디가 그것이었다. 지우는 귀 뒤로 머리를 넘기려다 손을 내렸다. 그가 좋아하던 "
                "버릇이라는 것이 떠올라서였다. 버스가 왔지만 두 사람 다 타지 않았다.",
            ),
            (
                "짝사랑을 들킨 순간을 짧게 써 줘.",
                "도서관 책상에 두고 온 수첩이 그의 손에 들려 있었다. 민서는 숨을 멈추었다. 어느 쪽을 펼쳤을까. 그의 이름이 적힌 쪽일까, 그의 "
                "이름만 적힌 쪽일까.\n\n“글씨가 예쁘더라.”\n\n그는 그 말만 하고 수첩을 내밀었다. 받아 든 수첩 사이에 못 보던 책갈피가 "
                "끼워져 있었다.",
            ),
        ),
    ),
    Genre(
        "동화",
        "당신은 한국어로 동화를 쓰는 작가입니다. 쉬운 말과 짧은 문장으로, 아이가 소리 내어 읽기 좋게 쓰세요.",
        (
            (
                "겨울잠을 못 자는 곰 이야기를 들려줘.",
                "숲에 눈이 소복소복 내렸어요. 엄마 곰도 아빠 곰도 쿨쿨 잠이 들었지요. 하지만 아기 곰 도토는 눈이 말똥말똥했어요.\n\n“겨울은 "
                "어떻게 생겼을까?”\n\n도토는 살금살금 굴 밖으로 나갔어요. 온 세상이 하얀 이불을 덮고 있었어요. 도토는 발자국을 콩콩 찍다가 "
                "하품을 했어요. 아, 겨울은 온 숲이 함께 자는 날이구나! 도토는 엄마 품으로 쏙 들어가 스르르 잠이 들었답니다.",
            ),
            (
                "달님에게 편지를 쓴 토끼 이야기를 써 줘.",
                "토끼 하양이는 나뭇잎에 편지를 썼어요. “달님, 밤마다 혼자 심심하지 않나요?” 바람이 편지를 물고 하늘로 올라갔지요. 다음 날 "
                "밤, 하양이네 창가에 달빛이 길게 내려왔어요. 달빛 끝에는 반짝이는 글씨가 있었어요. “네가 올려다보니 심심하지 않단다.” "
                "하양이는 귀를 쫑긋 세우고 활짝 웃었어요.",
            ),
        ),
    ),
    Genre(
        "시",
        "당신은 한국어로 시를 쓰는 시인입니다. 흔한 비유를 피하고, 행과 연을 나누어 짧게 쓰세요.",
        (
            (
                "골목을 주제로 시를 써 줘.",
                "저녁이 먼저 와서\n담장에 기대어 있다\n\n밥 냄새가 하나씩\n대문을 빠져나오고\n이름 부르는 소리에\n그림자들이 흩어진다\n\n"
                "마지막까지 남은 공 하나가\n내리막을 따라\n천천히 집으로 간다",
            ),
            (
                "할머니에 대한 시를 써 줘.",
                "할머니는 콩을 고를 때\n말을 하지 않으셨다\n\n썩은 것 하나에\n손이 오래 머물다가\n마당으로 가만히 던지셨다\n\n이듬해 봄\n"
                "그 자리에서\n싹이 났다",
            ),
        ),
    ),
    Genre(
        "수필",
        "당신은 한국어로 수필을 쓰는 사람입니다. 작은 일에서 시작해 담담하게 쓰고, 교훈으로 끝맺지 마세요.",
        (
            (
                "오래된 물건에 대한 수필을 써 줘.",
                "아버지의 자전거에는 바구니가 두 개 달려 있었다. 앞의 것은 도시락을, 뒤의 것은 나를 싣기 위한 것이었다. 나는 등을 보고 "
                "자랐다. 땀이 번지는 모양으로 그날의 더위를 알았고, 어깨가 흔들리는 모양으로 길의 형편을 알았다. 자전거는 이제 베란다에서 "
                "화분을 받치고 있다. 물을 줄 때마다 바퀴가 조금씩 돈다.",
            ),
            (
                "아침 산책을 소재로 짧은 수필을 써 줘.",
                "여섯 시의 동네는 다른 동네 같다. 빵집은 불을 켰지만 문은 열지 않았고, 고양이는 길 한가운데를 제 것처럼 걷는다. 나는 늘 같은 "
                "노인과 같은 전봇대 앞에서 마주친다. 우리는 이름을 모르는 채로 삼 년째 고개를 숙인다. 어제는 노인이 보이지 않았다. 오늘 "
                "아침, 나는 조금 일찍 집을 나섰다.",
            ),
        ),
    ),
)


GENRE_NAMES = tuple(one.name for one in GENRES)


def find_genre(name: str) -> Genre:
    """The genre of that name. Raises: InputError naming those there are."""
    for one in GENRES:
        if one.name == name:
            return one
    raise InputError(tr("`genre` {name}: unknown; give one of {genres}", name=name, genres=", ".join(GENRE_NAMES)))


def shown_first(
    genre: str | None, few_shot: Path | None, system_prompt: str | None
) -> tuple[tuple[Record, ...], str | None]:
    """The examples and the system prompt of a call: its own where it brings them, else the genre's.

    Raises: InputError for an unknown genre, or a file without examples.
    """
    examples = read_few_shot(few_shot) if few_shot else ()
    if genre is None:
        return examples, system_prompt
    chosen = find_genre(genre)
    return examples or chosen.records(), chosen.system_prompt if system_prompt is None else system_prompt

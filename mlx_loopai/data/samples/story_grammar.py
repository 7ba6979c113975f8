"""A compositional generator of short Korean stories in three paragraphs.

The worlds of pretraining and those of the demonstration's training rows share no heroes, places, things or genres, so
that the rows have something new to teach.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.data.samples.slots import Slot


@dataclass(frozen=True)
class World:
    genre: str
    heroes: Sequence[str]
    friends: Sequence[str]
    places: Sequence[str]
    things: Sequence[str]
    troubles: Sequence[str]


@dataclass(frozen=True)
class Story:
    """`paragraphs`: three, without line breaks."""

    genre: str
    hero: str
    thing: str
    paragraphs: tuple[str, str, str]

    @property
    def prose(self) -> str:
        return "\n\n".join(self.paragraphs)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


PRETRAINING_WORLDS = (
    World(
        "일상",
        heroes=_words("민서 도윤 하람 서아 지호 나래 은결 다온 준서 소미 우주 가온 라희 태오 유하"),
        friends=_words("할머니 동생 이웃_아저씨 담임_선생님 빵집_주인 옆집_누나 우체부 사촌_형"),
        places=_words("작은_골목 오래된_도서관 학교_운동장 동네_시장 버스_정류장 강가_공원 빵집_앞 옥상_정원"),
        things=_words("낡은_우산 노란_편지 작은_화분 손목시계 그림책 털장갑 자전거 종이배 사진첩 열쇠"),
        troubles=_words("소나기가_쏟아졌다 길을_잃었다 약속을_잊었다 불이_꺼졌다 다리를_삐었다 마지막_버스를_놓쳤다"),
    ),
    World(
        "동물",
        heroes=_words(
            "아기_토끼 꼬마_여우 느린_거북이 겁_많은_다람쥐 작은_참새 하얀_고양이 막내_오리 어린_사슴 갈색_곰"
        ),
        friends=_words("늙은_부엉이 힘센_멧돼지 수다쟁이_까치 친절한_너구리 이웃_두더지 강가의_수달"),
        places=_words("깊은_숲 맑은_시냇가 커다란_떡갈나무_아래 눈_덮인_언덕 갈대밭 도토리_언덕"),
        things=_words("반짝이는_도토리 빨간_열매 따뜻한_둥지 조개껍데기 나뭇잎_배 꿀단지 솔방울 버섯_바구니"),
        troubles=_words("바람이_거세게_불었다 강물이_불어났다 해가_저물었다 첫눈이_내렸다 안개가_짙어졌다"),
    ),
    World(
        "바다",
        heroes=_words("어부_만복이 등대지기_수철이 해녀_순이 꼬마_선장_바다 배_짓는_목수_길동이"),
        friends=_words("늙은_갈매기 항구의_상인 이웃_섬_소녀 돌고래 등대_할아버지"),
        places=_words("작은_항구 등대_아래 조용한_갯벌 이름_없는_섬 파도치는_바닷가"),
        things=_words("낡은_그물 유리병_편지 진주_한_알 나침반 돛단배 소라_껍데기 오래된_지도"),
        troubles=_words("폭풍이_몰려왔다 배에_물이_새기_시작했다 닻줄이_끊어졌다 등댓불이_꺼졌다"),
    ),
)

DOMAIN_WORLDS = (
    World(
        "판타지",
        heroes=_words("마법사_아린 견습_기사_로한 숲의_요정_티나 용의_아이_카이 그림자_도둑_제인 별지기_루나"),
        friends=_words("말하는_지팡이 늙은_용 얼음_왕의_딸 난쟁이_대장장이 투명_고양이"),
        places=_words("수정_동굴 구름_위의_성 잠든_왕국 거꾸로_흐르는_강 불꽃_사막 유리_탑"),
        things=_words("달빛_검 시간의_모래시계 불사조의_깃털 봉인된_마법서 은빛_왕관 그림자_망토"),
        troubles=_words("봉인이_풀리고_말았다 어둠의_군대가_몰려왔다 마법이_모두_사라졌다 왕이_돌로_변했다"),
    ),
    World(
        "공상과학",
        heroes=_words("우주_비행사_세온 로봇_열두_호 과학자_한별 화성의_소녀_리아 시간_여행자_도진"),
        friends=_words("인공지능_솔 고장_난_탐사선 외계의_아이 늙은_정비사 쌍둥이_로봇"),
        places=_words("달_기지 궤도_정거장 얼어붙은_행성 붉은_협곡 빛의_연구소 버려진_우주선"),
        things=_words("빛_엔진 기억_칩 중력_장화 별자리_지도 마지막_씨앗 시간_열쇠"),
        troubles=_words("산소가_바닥나기_시작했다 통신이_끊겼다 운석이_쏟아졌다 시간이_멈추었다"),
    ),
    World(
        "추리",
        heroes=_words("탐정_백운 형사_오름 기록관_서리 신문_기자_단비 골동품상_묵향"),
        friends=_words("의심_많은_집사 말_없는_정원사 낯선_손님 사라진_화가의_딸 늙은_판사"),
        places=_words("안개_낀_저택 잠긴_서재 비밀_지하실 폐쇄된_극장 한밤의_열차 버려진_온실"),
        things=_words("피_묻은_장갑 찢어진_유언장 검은_봉투 깨진_회중시계 암호문 붉은_보석"),
        troubles=_words("두_번째_사건이_일어났다 증거가_사라졌다 모든_시계가_멈추었다 범인의_쪽지가_도착했다"),
    ),
)

_OPENINGS = (
    "{season} {time}, {hero:은/는} {place}에서 {thing:을/를} 발견했다.",
    "{hero:은/는} {season}이면 늘 {place:을/를} 찾았다. 그날 그곳에는 {thing:이/가} 놓여 있었다.",
    "{place}에 {hero:이/가} 살고 있었다. {hero:은/는} {thing:을/를} 무엇보다 아꼈다.",
    "“이게 뭐지?” {hero:이/가} {place}에서 걸음을 멈추었다. 눈앞에 {thing:이/가} 있었다.",
    "{time}의 {place:은/는} 무척 조용했다. {hero:은/는} 주머니에서 {thing:을/를} 꺼냈다.",
)
_SECOND = (
    "{hero:은/는} 그것을 {friend}에게 보여 주고 싶었다.",
    "왠지 {feeling} 마음이 들었다.",
    "{friend:은/는} 그 모습을 말없이 지켜보았다.",
    "오래전부터 기다려 온 일이었다.",
    "가슴이 {beat} 뛰기 시작했다.",
)
_TURNS = (
    "그런데 갑자기 {trouble}. {hero:은/는} {feeling} 얼굴로 주위를 둘러보았다.",
    "그때였다. {trouble}. {friend:이/가} 급히 달려와 소리쳤다. “{shout}”",
    "하지만 일은 뜻대로 되지 않았다. {trouble}. {thing:은/는} 보이지 않았다.",
    "얼마 지나지 않아 {trouble}. {hero:은/는} 어떻게 해야 할지 몰랐다.",
)
_HELPS = (
    "{friend:이/가} 손을 내밀며 말했다. “{comfort}”",
    "{hero:은/는} {friend:과/와} 함께 {place:을/를} 샅샅이 뒤졌다.",
    "둘은 {thing:을/를} 지키려고 힘을 모았다.",
    "“{comfort}” {friend}의 말에 {hero:은/는} 용기를 냈다.",
)
_ENDINGS = (
    "마침내 모든 것이 제자리로 돌아왔다. {hero:은/는} {thing:을/를} 가슴에 꼭 안았다.",
    "그날 뒤로 {hero:과/와} {friend:은/는} 둘도 없는 사이가 되었다.",
    "{hero:은/는} 그제야 {lesson} 것을 알았다.",
    "{place}에는 다시 {light} 빛이 내렸다. {hero:은/는} 환하게 웃었다.",
    "사람들은 지금도 {hero:과/와} {thing}의 이야기를 나눈다.",
)
_CLOSINGS = (
    "아주 {light} 밤이었다.",
    "{friend:은/는} 고개를 끄덕이며 미소를 지었다.",
    "내일은 또 다른 일이 기다리고 있을 것이다.",
    "작은 바람이 {place:을/를} 지나갔다.",
    "“고마워.” {hero:이/가} 조용히 말했다.",
)
_FILLERS: dict[str, Sequence[str]] = {
    "season": ("봄", "여름", "가을", "겨울"),
    "time": _words("아침 저녁 깊은_밤 이른_새벽 늦은_오후"),
    "feeling": _words("설레는 불안한 기쁜 쓸쓸한 궁금한 든든한"),
    "beat": _words("콩콩 두근두근 쿵쿵"),
    "shout": _words("어서_피해! 이쪽으로_와! 큰일_났어! 조심해!"),
    "comfort": _words("걱정하지_마. 내가_도와줄게. 함께라면_할_수_있어. 포기하지_말자. 천천히_다시_해_보자."),
    "lesson": _words("혼자가_아니라는 기다림도_선물이라는 작은_용기가_큰일을_한다는 진심은_통한다는 늦어도_괜찮다는"),
    "light": _words("따뜻한 고요한 은은한 눈부신 포근한"),
}


def tell(world: World, rng: random.Random) -> Story:
    """One story of a world; the same random state tells the same story."""
    hero, thing = rng.choice(world.heroes), rng.choice(world.things)
    slots = {
        "hero": hero,
        "thing": thing,
        "friend": rng.choice(world.friends),
        "place": rng.choice(world.places),
        "trouble": rng.choice(world.troubles),
        **{name: rng.choice(values) for name, values in _FILLERS.items()},
    }
    filled = {name: Slot(value) for name, value in slots.items()}
    pairs = ((_OPENINGS, _SECOND), (_TURNS, _HELPS), (_ENDINGS, _CLOSINGS))
    first, second, third = (" ".join(rng.choice(part).format(**filled) for part in pair) for pair in pairs)
    return Story(world.genre, hero, thing, (first, second, third))

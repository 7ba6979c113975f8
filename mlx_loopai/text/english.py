"""English words that Korean prose does not borrow: what a model writes when it slips into English."""

from __future__ import annotations

# Words of programming and of technical prose are left out on purpose, also `for`, `with`, `match` and `use`.
_FUNCTION_WORDS = frozenset(
    "the and but she they them their there then than that these those what when why how who whom whose which was were "
    "are been being has had having did does done would could should might must shall cannot can't don't doesn't didn't "
    "won't wasn't weren't isn't couldn't wouldn't shouldn't i'm i've i'd i'll you're you've he's she's it's we're "
    "they're that's there's you your yours our ours his her hers him himself herself itself themselves myself yourself "
    "because although though however therefore moreover meanwhile perhaps maybe instead about above across after again "
    "against along among around before behind below beneath beside between beyond during except near since through "
    "throughout toward towards under until upon within without very also just still even ever always often "
    "sometimes already almost enough quite rather soon here now once".split()
)
_EVERYDAY_WORDS = frozenset(
    "good bad little big old young beautiful pretty happy sad angry afraid alone cold warm hot dark bright quiet "
    "strange tired hungry dead alive man men woman women boy girl child children people person friend mother "
    "father brother sister son daughter wife husband king queen house home door window room wall floor street "
    "road village town city river mountain forest sea sky sun moon star stars rain snow wind night day morning "
    "evening afternoon today tomorrow yesterday moment year years life death love heart mind soul eye eyes face "
    "hands head hair voice mouth lips tears smile laugh dream dreams story stories word words water fire food "
    "money work school war peace walk walked walking went goes going gone come came coming said says saying told "
    "tell asked answered looked looking looks saw seen see watch watched heard hear felt feel feeling knew know "
    "known thought think thinking wanted want wants took take taken gave give given made make making got found "
    "left stood stand sat sit slept sleep woke wake ate eat drank drink smiled laughed cried screamed shouted "
    "whispered held hold turned ran running began begin stopped started lived live died kill killed loved hated "
    "hoped wished waited wait remembered remember forgot forget believed believe seemed became become brought "
    "kept keep lost lose met meet spoke speak talked talk fell fall rose grew like please sorry thank thanks yes "
    "okay something everything anything someone everyone nobody another each every many much few both same own "
    "such suddenly slowly quickly quietly softly gently really finally certainly probably carefully silently deeply "
    "barely hardly nearly exactly completely absolutely immediately simply easily truly sadly happily angrily badly "
    "loudly warmly coldly calmly kindly lonely lovely actually usually especially possibly surely clearly".split()
)
_WORDS = _FUNCTION_WORDS | _EVERYDAY_WORDS


def is_everyday_english(word: str) -> bool:
    """True for words such as `suddenly`, `walked`, `the`, `The`; False for `crate`, `derive`, `House`, `AI`.

    Of capitalised words only function words count: others may be names.
    """
    lower = word.lower().replace("’", "'")
    if lower not in _WORDS:
        return False
    if word != word.lower():
        return word == word.capitalize() and lower in _FUNCTION_WORDS
    return True

"""The world that the embedded model knows: tables of facts, written for this project.

Countries and words are real; villages and people are invented, so that knowing them can only come from pretraining.
"""

from __future__ import annotations

# Korean name, English name, Korean capital, English capital
COUNTRIES: tuple[tuple[str, str, str, str], ...] = tuple(
    tuple(row.split(","))  # type: ignore[misc]
    for row in """
한국,Korea,서울,Seoul|일본,Japan,도쿄,Tokyo|중국,China,베이징,Beijing|몽골,Mongolia,울란바토르,Ulaanbaatar
베트남,Vietnam,하노이,Hanoi|태국,Thailand,방콕,Bangkok|라오스,Laos,비엔티안,Vientiane|캄보디아,Cambodia,프놈펜,Phnom Penh
필리핀,the Philippines,마닐라,Manila|인도네시아,Indonesia,자카르타,Jakarta|말레이시아,Malaysia,쿠알라룸푸르,Kuala Lumpur
인도,India,뉴델리,New Delhi|네팔,Nepal,카트만두,Kathmandu|부탄,Bhutan,팀부,Thimphu|방글라데시,Bangladesh,다카,Dhaka
파키스탄,Pakistan,이슬라마바드,Islamabad|이란,Iran,테헤란,Tehran|이라크,Iraq,바그다드,Baghdad|튀르키예,Turkey,앙카라,Ankara
요르단,Jordan,암만,Amman|레바논,Lebanon,베이루트,Beirut|시리아,Syria,다마스쿠스,Damascus|카타르,Qatar,도하,Doha
오만,Oman,무스카트,Muscat|예멘,Yemen,사나,Sanaa|우즈베키스탄,Uzbekistan,타슈켄트,Tashkent|카자흐스탄,Kazakhstan,아스타나,Astana
조지아,Georgia,트빌리시,Tbilisi|아르메니아,Armenia,예레반,Yerevan|러시아,Russia,모스크바,Moscow|우크라이나,Ukraine,키이우,Kyiv
폴란드,Poland,바르샤바,Warsaw|체코,Czechia,프라하,Prague|헝가리,Hungary,부다페스트,Budapest|오스트리아,Austria,빈,Vienna
독일,Germany,베를린,Berlin|프랑스,France,파리,Paris|영국,the United Kingdom,런던,London|아일랜드,Ireland,더블린,Dublin
스페인,Spain,마드리드,Madrid|포르투갈,Portugal,리스본,Lisbon|이탈리아,Italy,로마,Rome|그리스,Greece,아테네,Athens
스위스,Switzerland,베른,Bern|벨기에,Belgium,브뤼셀,Brussels|네덜란드,the Netherlands,암스테르담,Amsterdam|덴마크,Denmark,코펜하겐,Copenhagen
스웨덴,Sweden,스톡홀름,Stockholm|노르웨이,Norway,오슬로,Oslo|핀란드,Finland,헬싱키,Helsinki|아이슬란드,Iceland,레이캬비크,Reykjavik
에스토니아,Estonia,탈린,Tallinn|라트비아,Latvia,리가,Riga|리투아니아,Lithuania,빌뉴스,Vilnius|루마니아,Romania,부쿠레슈티,Bucharest
불가리아,Bulgaria,소피아,Sofia|세르비아,Serbia,베오그라드,Belgrade|크로아티아,Croatia,자그레브,Zagreb|슬로베니아,Slovenia,류블랴나,Ljubljana
슬로바키아,Slovakia,브라티슬라바,Bratislava|알바니아,Albania,티라나,Tirana|몰타,Malta,발레타,Valletta|키프로스,Cyprus,니코시아,Nicosia
이집트,Egypt,카이로,Cairo|리비아,Libya,트리폴리,Tripoli|튀니지,Tunisia,튀니스,Tunis|알제리,Algeria,알제,Algiers|모로코,Morocco,라바트,Rabat
수단,Sudan,하르툼,Khartoum|에티오피아,Ethiopia,아디스아바바,Addis Ababa|케냐,Kenya,나이로비,Nairobi|우간다,Uganda,캄팔라,Kampala
르완다,Rwanda,키갈리,Kigali|탄자니아,Tanzania,도도마,Dodoma|잠비아,Zambia,루사카,Lusaka|짐바브웨,Zimbabwe,하라레,Harare
앙골라,Angola,루안다,Luanda|가나,Ghana,아크라,Accra|세네갈,Senegal,다카르,Dakar|말리,Mali,바마코,Bamako|나이지리아,Nigeria,아부자,Abuja
미국,the United States,워싱턴,Washington|캐나다,Canada,오타와,Ottawa|멕시코,Mexico,멕시코시티,Mexico City|쿠바,Cuba,아바나,Havana
자메이카,Jamaica,킹스턴,Kingston|파나마,Panama,파나마시티,Panama City|코스타리카,Costa Rica,산호세,San Jose|콜롬비아,Colombia,보고타,Bogota
에콰도르,Ecuador,키토,Quito|페루,Peru,리마,Lima|칠레,Chile,산티아고,Santiago|아르헨티나,Argentina,부에노스아이레스,Buenos Aires
우루과이,Uruguay,몬테비데오,Montevideo|파라과이,Paraguay,아순시온,Asuncion|브라질,Brazil,브라질리아,Brasilia|베네수엘라,Venezuela,카라카스,Caracas
호주,Australia,캔버라,Canberra|뉴질랜드,New Zealand,웰링턴,Wellington|피지,Fiji,수바,Suva|사모아,Samoa,아피아,Apia|통가,Tonga,누쿠알로파,Nukualofa
""".strip()
    .replace("\n", "|")
    .split("|")
)

# Korean word, English word
WORDS: tuple[tuple[str, str], ...] = tuple(
    tuple(pair.split(":"))  # type: ignore[misc]
    for pair in """
사과:apple 배:pear 포도:grape 딸기:strawberry 수박:watermelon 복숭아:peach 바나나:banana 귤:tangerine 감자:potato 고구마:sweet potato
양파:onion 마늘:garlic 당근:carrot 오이:cucumber 버섯:mushroom 배추:cabbage 호박:pumpkin 옥수수:corn 쌀:rice 빵:bread
우유:milk 달걀:egg 고기:meat 생선:fish 소금:salt 설탕:sugar 꿀:honey 물:water 차:tea 국수:noodle
고양이:cat 강아지:puppy 토끼:rabbit 거북이:turtle 호랑이:tiger 사자:lion 곰:bear 여우:fox 늑대:wolf 사슴:deer
원숭이:monkey 코끼리:elephant 기린:giraffe 말:horse 소:cow 돼지:pig 양:sheep 염소:goat 닭:chicken 오리:duck
독수리:eagle 부엉이:owl 참새:sparrow 나비:butterfly 벌:bee 개미:ant 거미:spider 개구리:frog 뱀:snake 고래:whale
산:mountain 강:river 바다:sea 호수:lake 섬:island 숲:forest 들판:field 사막:desert 하늘:sky 구름:cloud
비:rain 눈:snow 바람:wind 번개:lightning 무지개:rainbow 해:sun 달:moon 별:star 땅:ground 돌:stone
나무:tree 꽃:flower 잎:leaf 씨앗:seed 뿌리:root 풀:grass 장미:rose 모래:sand 불:fire 얼음:ice
집:house 문:door 창문:window 지붕:roof 벽:wall 방:room 부엌:kitchen 정원:garden 다리:bridge 길:road
학교:school 병원:hospital 시장:market 도서관:library 박물관:museum 공원:park 역:station 공항:airport 가게:store 은행:bank
책:book 연필:pencil 종이:paper 가위:scissors 의자:chair 책상:desk 침대:bed 거울:mirror 시계:clock 열쇠:key
가방:bag 모자:hat 신발:shoes 양말:socks 장갑:gloves 우산:umbrella 안경:glasses 단추:button 주머니:pocket 반지:ring
자동차:car 버스:bus 기차:train 배낭:backpack 비행기:airplane 자전거:bicycle 지도:map 편지:letter 사진:photo 그림:picture
어머니:mother 아버지:father 누나:sister 아들:son 딸:daughter 할머니:grandmother 할아버지:grandfather 친구:friend 이웃:neighbor 아기:baby
의사:doctor 선생님:teacher 농부:farmer 요리사:cook 가수:singer 화가:painter 군인:soldier 왕:king 여왕:queen 기자:reporter
머리:head 눈썹:eyebrow 코:nose 입:mouth 귀:ear 목:neck 어깨:shoulder 손:hand 손가락:finger 무릎:knee
봄:spring 여름:summer 가을:autumn 겨울:winter 아침:morning 저녁:evening 밤:night 오늘:today 내일:tomorrow 어제:yesterday
사랑:love 평화:peace 희망:hope 꿈:dream 용기:courage 기쁨:joy 슬픔:sadness 웃음:laughter 비밀:secret 약속:promise
노래:song 춤:dance 이야기:story 질문:question 대답:answer 숫자:number 색깔:color 소리:sound 냄새:smell 맛:taste
빨강:red 파랑:blue 노랑:yellow 초록:green 검정:black 하양:white 보라:purple 분홍:pink 은색:silver 금색:gold
""".replace("sweet potato", "sweet_potato").split()
)

OPPOSITES: tuple[tuple[str, str], ...] = tuple(
    tuple(pair.split(":"))  # type: ignore[misc]
    for pair in """
hot:cold big:small fast:slow high:low long:short old:new open:closed full:empty light:dark early:late happy:sad hard:soft
rich:poor strong:weak clean:dirty near:far wide:narrow thick:thin deep:shallow wet:dry loud:quiet heavy:weightless up:down
left:right inside:outside day:night begin:end push:pull win:lose give:take buy:sell come:go laugh:cry remember:forget
always:never before:after first:last above:below front:back north:south east:west summer:winter sweet:bitter sharp:blunt
brave:timid kind:cruel safe:dangerous cheap:expensive true:false easy:difficult
""".split()
)

VILLAGE_STEMS = (
    "가람 나래 다솜 라온 마루 바람 사슴 아람 자작 차돌 하늘 은하 노을 이슬 새벽 단풍 솔잎 달빛 별빛 햇살 구름 무지개 소금 갈대 버들 "
    "연꽃 들국 산들 푸른 돌담 느티 은행 매화 동백 수국 찔레 모란 벚꽃 대숲 솔밭 안개 여울 샘터 나루 고래 갈매기 두루미 제비 뻐꾸기 "
    "꾀꼬리 반딧불 다람쥐 너구리 호박 감나무 밤나무 복사꽃 살구 앵두 머루 다래 도토리 옹기 물레 풍차 등대 조약돌 모래 바위 언덕 고갯길 "
    "오솔길 징검 돛단 종소리 피리 거문고 가야금 장구 북소리 한지 붓꽃 먹물 벼루 비단 삼베 모시 황금 은빛"
).split()
PRODUCTS = "사과 배 포도 딸기 수박 복숭아 감자 고구마 마늘 버섯 호박 옥수수 꿀 쌀 소금 녹차 대추 밤 도자기 한지 비단 부채 김치 국수".split()
SURNAMES = "김 이 박 최 정 강 조 윤 장 임 한 오 서 신 권 황 안 송 류 홍".split()
GIVEN_NAMES = (
    "민준 서연 도윤 하은 시우 지유 주원 서현 예준 수아 지호 다은 건우 채원 현우 지아 우진 은서 선우 유나 연우 소율 정민 나연 "
    "승현 가은 준혁 예린 태윤 보라"
).split()
JOBS = "의사 교사 농부 어부 요리사 목수 화가 가수 기자 군인 약사 변호사 소방관 경찰관 간호사 작가 배우 시인 조종사 사진사".split()
FOODS = "김밥 비빔밥 냉면 떡볶이 만두 불고기 잡채 삼계탕 칼국수 된장찌개 김치찌개 파전 호떡 팥죽 순대 갈비 보쌈 수제비 떡국 죽".split()

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_in_english(number: int) -> str:
    """0..99 in English words."""
    if number < 20:
        return NUMBER_WORDS[number]
    tens, ones = divmod(number, 10)
    return TENS_WORDS[tens - 2] + (f"-{NUMBER_WORDS[ones]}" if ones else "")

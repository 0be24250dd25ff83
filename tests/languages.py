"""Short texts in six languages, with the signs and spellings that tokenizers stumble over."""

LANGUAGES = {
    "en": [
        "The harbour had been closed since the autumn storms, and nobody in the town expected it to open before May. "
        "“You'll see,” said the pilot's daughter, counting the boats (there were twenty-seven), “they won't rot.”",
        "By 1911 the company owned 3,400 acres on both sides of the river; its shares, worth £12 10s. in the spring, "
        "fell to less than half of that. Mr. O'Brien, who'd sold early, bought the mill-house and kept bees.",
    ],
    "de": [
        "Während draußen der Regen gegen die Scheiben schlug, saß die alte Müllerin über ihren Büchern und rechnete: "
        "für 1.250 Säcke Mehl waren 3,5 % Zinsen fällig. »Das geht nicht auf«, murmelte sie, »das geht niemals auf.«",
        "Die Größe des Bundesverfassungsgerichtsgebäudes überraschte ihn; er hätte – nach allem, was man so hört – "
        "etwas Älteres, Ehrwürdigeres erwartet. Aber was heißt schon „ehrwürdig“?",
    ],
    "fr": [
        "À l’époque où l’on construisait encore des péniches, le père Lefèvre, qu’on disait avare, prêtait son hangar "
        "aux bateliers : c’était un cœur d’or ! « Où êtes-vous allés ? » demandait-il chaque soir.",
        "L'œuvre, inachevée, fut vendue 4 500 francs ; l'acheteur — un Belge naïf, paraît-il — n'en connaissait même "
        "pas le titre. Ça ne l'empêcha guère d'être très fier.",
    ],
    "zh": [
        "清晨的雾还没有散去，码头上已经站满了人。老船长看了看手表，说：“再等十分钟，潮水就上来了。”"
        "孩子们不相信，却都安静地坐在石阶上。",
        "這座橋建於1932年，全長約1.2公里，是當時東亞最長的鐵路橋之一；戰後經過三次大規模的修繕（最近一次在2008年），"
        "如今仍在使用。",
    ],
    "ru": [
        "Поезд опаздывал уже на два часа, и пассажиры, ворча, разошлись по станции: кто пил чай, кто читал вчерашнюю "
        "газету. «Ещё не скоро», — сказал дежурный и ушёл к себе.",
        "В 1897 году население уезда составляло 146 тыс. человек; грамотных среди них было не более четверти. Объём "
        "торговли, впрочем, рос: хлеб, лён, мёд…",
    ],
    "ar": [
        "كانت السوق مزدحمة منذ الفجر، والباعة ينادون بأعلى أصواتهم: «تفاحٌ طازج!» لكنّ الرجل العجوز لم يشترِ شيئًا.",
        "بُنيت القلعة عام ١٢٣٠، ثم رُمّمت مرّتين؛ وهي اليوم متحف يزوره نحو 40 ألف شخص سنويًّا.",
    ],
}

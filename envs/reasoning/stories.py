"""The stories of the word problems: data only. ``word_problems.py`` says how a problem is made of one.

An event is (operation, sentence). The operations on the running quantity x, with the numbers that are drawn for them:

    add     x + n            take     x - n             times    x * k
    add_k   x + k * n        take_k   x - k * n         percent_off  x - p % of x
    part    x - x / d        only     x / d             percent_on   x + p % of x

``{name}`` is a person, ``{part}`` a word such as "a quarter". A finish asks: ``count`` for x itself, ``times`` for
k * x with a whole k, ``price`` for x times a price with cents, ``full`` for x // k, ``rest`` for x mod k,
``more`` for n - x or x - n, ``share`` for x / k as a fraction. A distractor has numbers that do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Story:
    """``opening`` states the first quantity as ``{x}``; ``unit`` is what the quantity counts."""

    name: str
    unit: str
    opening: str
    events: tuple[tuple[str, str], ...]
    finishes: tuple[tuple[str, str], ...]
    distractors: tuple[str, ...]


STORIES: tuple[Story, ...] = (
    Story(
        "bakery",
        "rolls",
        "{name} runs a bakery and starts the day with {x} rolls.",
        (
            ("add", "In the morning {n} more rolls come out of the oven."),
            ("take", "A hotel picks up {n} rolls."),
            ("add_k", "Then {k} trays of {n} rolls each are baked."),
            ("take_k", "After that {k} customers buy {n} rolls each."),
            ("part", "At noon {part} of the rolls in the shop are sold."),
            ("percent_off", "In the afternoon {p}% of what is left goes to a school."),
            ("times", "A second delivery brings the number of rolls to {k} times what it was."),
            ("only", "In the evening only {part} of the rolls remains; the rest is sold."),
        ),
        (
            ("count", "How many rolls are there now?"),
            ("price", "The remaining rolls are sold for {price} dollars each. How many dollars does this bring in?"),
            ("full", "The remaining rolls are put into bags of {k}. How many bags can be filled completely?"),
        ),
        ("The bakery opened {n} years ago.", "A loaf of bread costs {n} cents.", "The shop has {n} shelves."),
    ),
    Story(
        "library",
        "books",
        "The library of a small town owns {x} books.",
        (
            ("add", "It buys {n} new books."),
            ("take", "After a leak {n} books have to be thrown away."),
            ("add_k", "Then {k} families each donate {n} books."),
            ("take_k", "It sends {k} boxes with {n} books each to another town."),
            ("percent_on", "A grant lets the library increase its stock by {p}%."),
            ("percent_off", "{p}% of the books are too old and are sold."),
            ("part", "{Part} of all books moves to a new branch for good."),
            ("times", "Merging with a bigger library multiplies the stock by {k}."),
        ),
        (
            ("count", "How many books does the library own now?"),
            ("full", "A shelf holds {k} books. How many shelves can be filled completely?"),
            (
                "rest",
                "The books are put on shelves of {k} until no full shelf can be made. How many books are left over?",
            ),
        ),
        (
            "It is open {n} hours a week.",
            "{name} has worked there for {n} years.",
            "A reader's card costs {n} dollars.",
        ),
    ),
    Story(
        "water_tank",
        "litres",
        "A water tank on a farm holds {x} litres at dawn.",
        (
            ("add", "Rain adds {n} litres."),
            ("take", "Watering the garden takes {n} litres."),
            ("add_k", "A pump runs for {k} minutes and adds {n} litres a minute."),
            ("take_k", "Then {k} cows drink {n} litres each."),
            ("part", "{Part} of the water in the tank is pumped to the neighbours."),
            ("percent_off", "In the heat {p}% of the water evaporates."),
            ("percent_on", "A delivery raises the amount of water by {p}%."),
            ("only", "After a leak only {part} of the water remains."),
        ),
        (
            ("count", "How many litres are in the tank now?"),
            ("times", "How many glasses can be filled with what is in the tank, when {k} glasses make one litre?"),
            ("more", "The tank can hold {n} litres. How many litres are missing to the full tank?"),
        ),
        ("The tank is {n} years old.", "The farm has {n} hens.", "The well is {n} metres deep."),
    ),
    Story(
        "savings",
        "dollars",
        "{name} has {x} dollars in a savings account.",
        (
            ("add", "A birthday present of {n} dollars is paid in."),
            ("take", "A bicycle repair for {n} dollars is paid from it."),
            ("add_k", "For {k} weeks {name} pays in {n} dollars each week."),
            ("take_k", "Then {k} tickets at {n} dollars each are paid from the account."),
            ("percent_on", "The bank pays {p}% interest on all that is in the account."),
            ("percent_off", "Then {p}% of the money is given to charity."),
            ("part", "{name} lends {part} of the money to a friend, who never gives it back."),
            ("times", "A lucky investment multiplies the amount by {k}."),
        ),
        (
            ("count", "How many dollars are in the account in the end?"),
            ("more", "A camera costs {n} dollars. By how many dollars do the price and the balance differ?"),
            (
                "share",
                "The money is shared equally among {k} people. How many dollars does each get, as an exact number "
                "or fraction?",
            ),
        ),
        ("{name} is {n} years old.", "The account number ends in {n}.", "The bank is {n} kilometres away."),
    ),
    Story(
        "orchard",
        "apples",
        "On the first day of the harvest {name} picks {x} apples.",
        (
            ("add", "The next day brings {n} more."),
            ("take", "{n} apples turn out to be rotten and are thrown away."),
            ("add_k", "Then {k} helpers bring {n} apples each."),
            ("take_k", "{k} pies are baked, with {n} apples in each."),
            ("part", "{Part} of the apples is pressed to juice."),
            ("percent_off", "A trader buys {p}% of the apples that are left."),
            ("times", "By the end of the week there are {k} times as many apples as before."),
            ("only", "{Part} of the apples is kept, everything else is given away."),
        ),
        (
            ("count", "How many apples does {name} have now?"),
            ("full", "A crate holds {k} apples. How many full crates can be packed?"),
            ("price", "An apple sells for {price} dollars. How many dollars are all the apples worth?"),
        ),
        (
            "There are {n} pear trees next door.",
            "The ladder is {n} steps high.",
            "The orchard was planted {n} years ago.",
        ),
    ),
    Story(
        "journey",
        "kilometres",
        "On a long tour {name} cycles {x} kilometres in the first week.",
        (
            ("add", "In the second week {name} cycles another {n} kilometres."),
            ("add_k", "On each of the next {k} days {name} cycles {n} kilometres."),
            ("times", "A month later the distance from the start of the tour is {k} times what it was until then."),
            ("take", "It turns out that {n} of the kilometres were recorded by mistake, and they are struck off."),
            ("percent_on", "The rest of the route makes the total {p}% longer."),
            ("percent_off", "The jury does not accept {p}% of the kilometres so far."),
            ("take_k", "For {k} days by train {n} kilometres each are taken off the record."),
            ("part", "{Part} of the recorded distance was ridden with a motor and does not count."),
        ),
        (
            ("count", "How many kilometres count in the end?"),
            ("times", "A sponsor pays {k} dollars for each kilometre that counts. How many dollars is that?"),
            (
                "share",
                "At the same distance every day for {k} days, how many kilometres a day would that be, as an exact "
                "number or fraction?",
            ),
        ),
        (
            "The bicycle weighs {n} kilograms.",
            "The tyres were changed {n} times.",
            "The highest pass is at {n} metres.",
        ),
    ),
    Story(
        "factory",
        "bolts",
        "A machine makes {x} bolts in the first hour.",
        (
            ("add", "A second machine adds {n} bolts."),
            ("take", "Inspection rejects {n} bolts."),
            ("add_k", "A third machine runs for {k} hours and makes {n} bolts an hour."),
            ("take_k", "{k} orders of {n} bolts each are shipped."),
            ("percent_off", "{p}% of the bolts in stock are melted down again."),
            ("part", "{Part} of the stock is sold at once."),
            ("times", "The night shift brings the stock to {k} times its size."),
            ("percent_on", "The weekend shift increases the stock by {p}%."),
        ),
        (
            ("count", "How many bolts are in stock now?"),
            ("full", "A box holds {k} bolts. How many full boxes can be packed?"),
            ("rest", "They are packed in boxes of {k}, only full ones. How many bolts are left over?"),
        ),
        ("The hall is {n} metres long.", "{n} people work there.", "A bolt weighs {n} grams."),
    ),
    Story(
        "school_trip",
        "dollars",
        "For a school trip a class has collected {x} dollars.",
        (
            ("add", "The parents add {n} dollars."),
            ("add_k", "{k} pupils earn {n} dollars each by washing cars."),
            ("take_k", "The {k} train tickets cost {n} dollars each and are paid."),
            ("take", "The hostel wants {n} dollars in advance."),
            ("part", "{Part} of the money goes to the museum and its guides."),
            ("percent_off", "{p}% of the money is kept back for another class."),
            ("times", "The town multiplies the sum in the cash box by {k}."),
            ("percent_on", "A club raises the sum by {p}%."),
        ),
        (
            ("count", "How many dollars are left?"),
            (
                "share",
                "What is left is given back to the {k} pupils in equal shares. How many dollars does each get, as "
                "an exact number or fraction?",
            ),
            ("more", "The next trip will cost {n} dollars. By how many dollars do this price and what is left differ?"),
        ),
        ("The bus has {n} seats.", "The museum shows {n} paintings.", "{name} took {n} photographs."),
    ),
    Story(
        "warehouse",
        "kilograms",
        "A warehouse holds {x} kilograms of rice.",
        (
            ("add", "A ship brings {n} kilograms."),
            ("add_k", "{k} lorries unload {n} kilograms each."),
            ("take", "{n} kilograms have become wet and are destroyed."),
            ("take_k", "{k} shops fetch {n} kilograms each."),
            ("part", "{Part} of the rice is exported."),
            ("percent_off", "{p}% of the rice is given to an aid agency."),
            ("only", "After the holidays only {part} of the rice is still there."),
            ("percent_on", "The new harvest increases the store by {p}%."),
        ),
        (
            ("count", "How many kilograms are in the warehouse now?"),
            ("price", "Rice is worth {price} dollars a kilogram. What is the store worth in dollars?"),
            ("full", "How many sacks of {k} kilograms can be filled completely?"),
        ),
        (
            "The warehouse has {n} gates.",
            "A sack of beans weighs {n} kilograms.",
            "The guard walks {n} rounds a night.",
        ),
    ),
    Story(
        "game",
        "points",
        "In a board game {name} has {x} points after the first round.",
        (
            ("add", "A treasure brings {n} points."),
            ("take", "A trap costs {n} points."),
            ("add_k", "{name} sells {k} sheep for {n} points each."),
            ("take_k", "{name} builds {k} towers at {n} points each."),
            ("times", "A magic card multiplies all points by {k}."),
            ("part", "The dragon takes {part} of the points."),
            ("percent_on", "A bonus of {p}% is added to the points."),
            ("percent_off", "A tax of {p}% is taken from the points."),
        ),
        (
            ("count", "How many points does {name} have in the end?"),
            ("more", "The record is {n} points. By how many points does the result differ from the record?"),
            ("times", "In the last round every point counts {k}-fold. What is the final result?"),
        ),
        ("The game is for {n} players.", "The other player has {n} points.", "The board has {n} fields."),
    ),
    Story(
        "fish",
        "fish",
        "There are {x} fish in a lake.",
        (
            ("add", "{n} young fish hatch."),
            ("take", "A heron and its family eat {n} fish."),
            ("take_k", "{k} anglers catch {n} fish each."),
            ("add_k", "A breeder releases {k} tanks with {n} fish each."),
            ("percent_off", "A cold winter kills {p}% of the fish."),
            ("percent_on", "In a good summer their number grows by {p}%."),
            ("part", "{Part} of the fish swims down the river and does not return."),
            ("times", "In the following years the number becomes {k} times what it was."),
        ),
        (
            ("count", "How many fish are in the lake now?"),
            ("times", "Each fish eats {k} grams of plankton a day. How many grams a day do all of them eat?"),
            ("rest", "They are counted in groups of {k}. How many are left over at the end?"),
        ),
        (
            "The lake is {n} metres deep.",
            "{n} boats lie at the shore.",
            "It takes {n} minutes to walk around the lake.",
        ),
    ),
    Story(
        "printing",
        "pages",
        "A print shop has paper for {x} pages.",
        (
            ("add", "A parcel brings paper for {n} more."),
            ("take", "A damp pile of {n} pages cannot be used."),
            ("take_k", "{k} booklets of {n} pages each are printed."),
            ("add_k", "{k} packs with paper for {n} pages each are delivered."),
            ("part", "{Part} of the paper is needed for posters."),
            ("percent_off", "A customer's calendars use up {p}% of the paper that is left."),
            ("percent_on", "The neighbour's gift increases the stock by {p}%."),
            ("times", "A large order of paper brings the stock to {k} times its size."),
        ),
        (
            ("count", "For how many pages is there paper now?"),
            ("full", "How many leaflets of {k} pages can be printed?"),
            (
                "price",
                "Printing one page costs {price} dollars. How many dollars does it cost to print on all of the paper?",
            ),
        ),
        (
            "The press runs since {n} days.",
            "The shop is open until {n} minutes past six.",
            "A poster is {n} centimetres wide.",
        ),
    ),
    Story(
        "cinema",
        "visitors",
        "A cinema counts {x} visitors in its first week.",
        (
            ("add", "In the second week there are {n} more visitors, all counted together from now on."),
            ("add_k", "Then {k} school classes with {n} pupils each come."),
            ("take", "{n} visitors with free tickets are taken off the count."),
            ("percent_on", "A festival raises the count by {p}%."),
            ("times", "At the end of the year the count is {k} times what it was before."),
            (
                "percent_off",
                "It is found that {p}% of the visitors were counted twice, and the count is corrected downwards by "
                "them.",
            ),
            ("part", "{Part} of the visitors came for concerts and is not counted any more."),
            ("take_k", "{k} private shows with {n} guests each are taken out of the count."),
        ),
        (
            ("count", "What is the count now?"),
            ("price", "A ticket costs {price} dollars. How many dollars did the visitors on the count pay?"),
            ("more", "The cinema hoped for {n} visitors. By how much does the count differ from this?"),
        ),
        ("The hall has {n} seats.", "The film lasts {n} minutes.", "{name} has seen it {n} times."),
    ),
    Story(
        "flour",
        "grams",
        "In the kitchen {name} weighs out {x} grams of flour.",
        (
            ("add", "{name} adds {n} grams."),
            ("take", "{n} grams are spilt."),
            ("add_k", "Then {k} cups of {n} grams each are added."),
            ("take_k", "{k} cakes take {n} grams each."),
            ("part", "{Part} of the flour goes into a soup."),
            ("percent_off", "Sieving removes {p}% of it."),
            ("times", "A guest brings so much flour that there is {k} times as much."),
            ("only", "{name} keeps only {part} of it and gives the rest away."),
        ),
        (
            ("count", "How many grams of flour are there now?"),
            ("full", "For how many whole biscuits of {k} grams of flour is it enough?"),
            (
                "share",
                "It is divided equally among {k} bowls. How many grams does each hold, as an exact number or fraction?",
            ),
        ),
        ("The oven is at {n} degrees.", "The butter weighs {n} grams.", "The recipe is {n} years old."),
    ),
)
